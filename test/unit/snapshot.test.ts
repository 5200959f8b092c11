/**
 * Snapshots as text. The files in test/golden were written once, by driving the machine of their version; they are
 * never written again: whatever the machine becomes, a session that was stored then must go on from there.
 */
import { globSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { EnclaveError } from '../../src/errors.ts';
import { CODEC } from '../../src/session/release.ts';
import { applied, call, returned, SessionDriver, START, sleep, value } from '../support/session.ts';

const FOLDER = path.resolve(import.meta.dirname, '../golden');
const SCENES = ['closed', 'executing', 'hibernated', 'idle', 'parked'] as const;
const VERSIONS_READ = Array.from({ length: CODEC.newest }, (_, index) => index + 1);

const golden = (version: number, scene: string): string =>
  readFileSync(path.join(FOLDER, `session-v${version}-${scene}.json`), 'utf8');

/** A session that was stored by a broker of that version, at START + 4 s. */
function stored(version: number, scene: (typeof SCENES)[number]): SessionDriver {
  const session = new SessionDriver({ snapshot: golden(version, scene) });
  session.now = START + 5_000;
  return session;
}

describe('golden snapshots', () => {
  it('are there for every version that is read', () => {
    const files = VERSIONS_READ.flatMap((version) =>
      SCENES.map((scene) => `session-v${version}-${scene}.json`),
    );
    expect(globSync('session-*.json', { cwd: FOLDER }).toSorted()).toEqual(files.toSorted());
  });
});

describe.each(VERSIONS_READ)('a session stored by version %d', (version) => {
  it.each([
    ['idle', 'idle'],
    ['executing', 'executing'],
    ['parked', 'waiting'],
    ['hibernated', 'hibernated'],
    ['closed', 'closed'],
  ] as const)('that was %s is read as %s and written again with nothing lost', (scene, state) => {
    const read = CODEC.decode(golden(version, scene));
    expect(read.value).toBe(state);
    expect(read.context.id).toBe('s1');
    const again = CODEC.decode(CODEC.encode(read.value, read.context, 7));
    expect(again).toEqual(read);
  });

  it.each(SCENES)('that was %s is written in every version for the brokers that read it', (scene) => {
    const { value, context } = CODEC.decode(golden(version, scene));
    for (const other of VERSIONS_READ) {
      const text = CODEC.encode(value, context, 3, other);
      expect(JSON.parse(text)).toMatchObject({ machine: 'session', version: other, epoch: 3 });
      const again = CODEC.decode(text);
      expect(again.value).toBe(value);
      // What an older version has no place for is lost once, and not more of it the second time (N2).
      expect(CODEC.encode(again.value, again.context, 3, other)).toBe(text);
    }
    expect(JSON.parse(CODEC.encode(value, context, 1, version))).toEqual(JSON.parse(golden(version, scene)));
  });

  it('that was idle remembers what it did and runs on', () => {
    const session = stored(version, 'idle');
    session.activate();
    expect(session.request('d3')).toEqual({ ok: true, kind: 'ended', execution: 'd3' });
    expect(session.request('d3', { fingerprint: 'g' })).toMatchObject({ code: 'COMMAND_CONFLICT' });
    expect(session.request('d1', { issuedAt: START + 1_000 })).toMatchObject({ code: 'COMMAND_EXPIRED' });
    expect(session.nextWake).toBe(START + 4_000 - 1_000 + 300_000);
    session.request('e1');
    session.report('e1', { end: returned('1', '{"n":2}') });
    expect(session.context.stateVersion).toBe(3);
  });

  it('that was executing is looked after by its next owner, and ends as its script does', () => {
    const session = stored(version, 'executing');
    expect(session.execution('e1').calls.map(({ index, state }) => `${index} ${state}`)).toEqual([
      '3 unprovided',
      '4 reconciling',
      '5 running',
      '6 queued',
    ]);
    session.activate();
    expect(session.effects('probe').map(({ execution }) => execution)).toEqual(['e1', 'e2']);
    expect(session.effects('locate').map(({ index }) => index)).toEqual([3, 5]);
    expect(session.effects('reconcile').map(({ index }) => index)).toEqual([4]);
    session.pass(0);
    expect(session.effects('call').map(({ index }) => index)).toEqual([3]);
    for (const index of [3, 4, 5]) session.endCall('e1', index, value('1'));
    expect(session.effects('call')).toEqual([]);
    session.pass(5_000);
    session.endCall('e1', 6);
    const items = [0, 3, 4, 5, 1, 6].map((index) => applied(index));
    session.report('e1', { items, end: returned('"done"') });
    expect(session.out.ended).toMatchObject([{ execution: { id: 'e1' }, end: { ok: true, json: '"done"' } }]);
    expect(session.effects('offer')).toMatchObject([{ execution: 'e3' }]);
  });

  it('that was executing replays what was lost, with the same calls', () => {
    const session = stored(version, 'executing');
    session.activate();
    session.lose('e1');
    expect(session.attempt('e1').replay).toBe(true);
    session.report('e1', { items: [call(0), sleep(1, 5_000), call(2, { effect: 'read' })] });
    expect(session.out).toMatchObject({ journal: [], effects: [], events: [] });
  });

  it.each(['parked', 'hibernated'] as const)('that was %s wakes at its time', (scene) => {
    const session = stored(version, scene);
    session.activate();
    expect(session.out.effects).toEqual([]);
    expect(session.nextWake).toBe(START + 64_000);
    session.now = START + 64_000;
    session.pass(0);
    expect(session.effects('offer')).toMatchObject([{ execution: 'e1' }]);
    session.report('e1', { items: [sleep(0, 60_000), applied(0)], end: returned('"awake"') });
    expect(session.out.ended).toMatchObject([{ end: { ok: true, json: '"awake"' } }]);
  });

  it('that was closed answers until its tombstone has served its time', () => {
    const session = stored(version, 'closed');
    expect(session.request('e1')).toEqual({ ok: true, kind: 'ended', execution: 'e1' });
    expect(session.request('e2')).toMatchObject({ code: 'CLOSED' });
    session.now = START + 64_000;
    session.pass(0);
    expect(session.out.purge).toBe(true);
  });
});

describe('a snapshot', () => {
  const text = golden(CODEC.newest, 'idle');
  const altered = (change: Record<string, unknown>): string =>
    JSON.stringify({ ...(JSON.parse(text) as object), ...change });
  const mismatch = expect.objectContaining({ code: 'ENGINE_MISMATCH' });
  const reading = (change: Record<string, unknown>): unknown => {
    try {
      return CODEC.decode(altered(change));
    } catch (error) {
      expect(error).toBeInstanceOf(EnclaveError);
      return error;
    }
  };

  it('says which machine, version and epoch wrote it', () => {
    const { value: state, context } = CODEC.decode(text);
    expect(JSON.parse(CODEC.encode(state, context, 12))).toMatchObject({
      machine: 'session',
      version: CODEC.newest,
      epoch: 12,
    });
  });

  it('holds nothing of the last step', () => {
    const session = new SessionDriver();
    session.request('e1');
    expect(session.out.effects).not.toEqual([]);
    expect(
      Object.keys((JSON.parse(session.encoded) as { body: { context: object } }).body.context),
    ).not.toContain('out');
    expect(CODEC.decode(session.encoded).context.out).toMatchObject({
      effects: [],
      events: [],
      replies: [],
    });
  });

  it.each([CODEC.newest + 1, 99])('of a later version is refused: %d', (version) => {
    expect(reading({ version })).toEqual(mismatch);
  });

  it('of a later version is known to be one before it is read', () => {
    expect(CODEC.isNewer(altered({ version: CODEC.newest + 1 }))).toBe(true);
    expect(CODEC.isNewer(JSON.stringify({ body: 1, version: 99, machine: 'session' }))).toBe(true);
    expect(CODEC.isNewer(text)).toBe(false);
    for (const other of ['', '{', '{}', '[]', 'null', '{"machine":"lease","version":99}'])
      expect(CODEC.isNewer(other)).toBe(false);
  });

  it.each([[0], [-1], [1.5], ['1'], [null]])('of no version at all is refused: %j', (version) => {
    expect(reading({ version })).toEqual(mismatch);
    expect(reading({ version: undefined })).toEqual(mismatch);
  });

  it.each([['lease'], [undefined]])('of another machine is refused: %j', (machine) => {
    expect(reading({ machine })).toEqual(mismatch);
  });
});
