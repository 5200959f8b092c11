/**
 * What every store owes (S1 to S13 of `src/store/store.ts`), as tests that know nothing but the port.
 *
 * They run in real time against whatever is behind the factory. No test relies on how soon a lease ends: it is
 * given a short one and waits for the fact, and whatever must not end meanwhile has a long one. Where the port
 * allows an index to hold more than it must, so do the tests, until the index was cleaned.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { commits, fieldsAndJournals } from './store/commits.ts';
import { deleting } from './store/deleting.ts';
import { closing, misuse, texts } from './store/edges.ts';
import { events } from './store/events.ts';
import { fencing, operations } from './store/fencing.ts';
import { wakeIndex, workIndex } from './store/indexes.ts';
import { type OpenStore, Room, type Test } from './store/kit.ts';
import { epochs, incarnations } from './store/leases.ts';
import { listing } from './store/listing.ts';
import { followsTheModel } from './store/model.ts';
import { acquiring, creating, releasing } from './store/ownership.ts';
import { roles } from './store/roles.ts';
import { shares } from './store/shares.ts';

export type { OpenStore } from './store/kit.ts';

/** Run the contract against a backend. */
export function storeContract(name: string, open: () => Promise<OpenStore>): void {
  describe(`the ${name} store`, () => {
    let opened: OpenStore | undefined;
    let room: Room | undefined;
    beforeAll(async () => {
      opened = await open();
    });
    beforeEach(() => {
      if (opened !== undefined) room = new Room(opened);
    });
    afterEach(() => room?.leave());
    afterAll(() => opened?.close());

    const inRoom: Test = (claim, act) =>
      it(claim, () => (room === undefined ? expect.fail('the store is not open') : act(room)));
    describe('incarnations', () => incarnations(inRoom));
    describe('roles', () => roles(inRoom));
    describe('shared numbers', () => shares(inRoom));
    describe('creating', () => creating(inRoom));
    describe('acquiring', () => acquiring(inRoom));
    describe('epochs', () => epochs(inRoom));
    describe('fencing', () => fencing(inRoom));
    describe('versions and operations', () => operations(inRoom));
    describe('a commit', () => commits(inRoom));
    describe('events', () => events(inRoom));
    describe('fields and journals', () => fieldsAndJournals(inRoom));
    describe('releasing', () => releasing(inRoom));
    describe('the work index', () => workIndex(inRoom));
    describe('the wake index', () => wakeIndex(inRoom));
    describe('deleting', () => deleting(inRoom));
    describe('listing', () => listing(inRoom));
    describe('texts', () => texts(inRoom));
    describe('misuse', () => misuse(inRoom));
    describe('closing a handle', () => closing(inRoom));
    describe('any sequence of calls', () => followsTheModel(inRoom));
  });
}
