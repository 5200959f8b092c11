import fc from 'fast-check';
import { describe, expect, it, vi } from 'vitest';
import { type Body, BusError } from '../../src/bus/bus.ts';
import { type Hop, MemoryBusServer } from '../../src/bus/memory.ts';
import { systemClock } from '../../src/clock.ts';
import { busContract } from './bus.ts';

busContract('memory', async () => new MemoryBusServer({ clock: systemClock, maxPayloadBytes: 1_048_576 }));

describe('the seam of the memory bus', () => {
  /** A server whose hops are run by the test. */
  function held() {
    const hops: Hop[] = [];
    const errors: unknown[] = [];
    const server = new MemoryBusServer({
      clock: systemClock,
      deliver: (hop) => hops.push(hop),
      onError: (error, subject) => errors.push([subject, error]),
    });
    return { hops, errors, asker: server.connect('asker'), answerer: server.connect('answerer') };
  }

  it('gets every hop, with what is sent, by whom and to whom', async () => {
    const { hops, asker, answerer } = held();
    answerer.subscribe('a', ({ respond }) => respond?.({ answer: 42 }));
    const answer = asker.request('a', { question: 6 }, { timeoutMs: 20_000 });
    expect(hops).toMatchObject([
      { kind: 'message', subject: 'a', body: { question: 6 }, from: 'asker', to: 'answerer' },
    ]);
    hops[0]?.run();
    expect(hops.slice(1)).toMatchObject([
      { kind: 'reply', subject: 'a', body: { answer: 42 }, from: 'answerer', to: 'asker' },
    ]);
    hops[1]?.run();
    expect(await answer).toEqual({ answer: 42 });
  });

  it('may lose, repeat and reorder messages', async () => {
    const { hops, asker, answerer } = held();
    const got: Body[] = [];
    answerer.subscribe('a', ({ body }) => {
      got.push(body);
    });
    for (const n of [0, 1, 2]) asker.publish('a', { n });
    hops[2]?.run();
    hops[0]?.run();
    hops[2]?.run();
    expect(got).toEqual([{ n: 2 }, { n: 0 }, { n: 2 }]);
  });

  it('may repeat an answer, which counts once', async () => {
    const { hops, asker, answerer } = held();
    answerer.subscribe('a', ({ body, respond }) => respond?.({ of: body }));
    const answer = asker.request('a', {}, { timeoutMs: 20_000 });
    hops[0]?.run();
    hops[0]?.run();
    for (const hop of hops.slice(1).toReversed()) hop.run();
    for (const hop of hops.slice(1)) hop.run();
    expect(await answer).toEqual({ of: {} });
  });

  it('may run a hop within a handler, which is not re-entered', () => {
    const { hops, asker, answerer } = held();
    const log: string[] = [];
    answerer.subscribe('a', () => {
      log.push('begin');
      hops.pop()?.run();
      log.push('end');
    });
    asker.publish('a', {});
    asker.publish('a', {});
    hops.pop()?.run();
    expect(log).toEqual(['begin', 'end', 'begin', 'end']);
  });

  it('lets a drain end, though a message is still on its way, and then loses it', async () => {
    const { hops, asker, answerer } = held();
    const got: Body[] = [];
    const subscription = answerer.subscribe('a', ({ body }) => {
      got.push(body);
    });
    asker.publish('a', {});
    await subscription.drain();
    hops[0]?.run();
    expect(got).toEqual([]);
  });

  it('lets a drain wait for what was sent before it, unless the test holds that up', async () => {
    const server = new MemoryBusServer({ clock: systemClock });
    const [sender, receiver] = [server.connect(), server.connect()];
    const got: Body[] = [];
    const subscription = receiver.subscribe('a', ({ body }) => {
      got.push(body);
    });
    sender.publish('a', { n: 0 });
    const drained = subscription.drain();
    sender.publish('a', { n: 1 });
    await drained;
    expect(got).toEqual([{ n: 0 }]);
  });

  it('ends a request as TIMEOUT if its only subscriber left before it arrived', async () => {
    const { hops, asker, answerer } = held();
    const subscription = answerer.subscribe('a', ({ respond }) => respond?.({}));
    const answer = asker.request('a', {}, { timeoutMs: 20 });
    subscription.unsubscribe();
    for (const hop of hops) hop.run();
    await expect(answer).rejects.toMatchObject({ code: 'TIMEOUT' });
  });

  it('reports what handlers and onSlow throw', async () => {
    const { hops, errors, asker, answerer } = held();
    const pending = Promise.withResolvers<void>();
    let calls = 0;
    answerer.subscribe(
      'a',
      () => {
        if (++calls === 1) throw new RangeError('first');
        return pending.promise;
      },
      {
        maxPending: 1,
        onSlow: () => {
          throw new RangeError('slow');
        },
      },
    );
    for (let sent = 0; sent < 4; sent++) asker.publish('a', {});
    for (const hop of hops) hop.run();
    pending.reject(new RangeError('second'));
    await vi.waitFor(() => expect(errors).toHaveLength(4));
    expect(errors).toEqual([
      ['a', new RangeError('first')],
      ['a', new RangeError('slow')],
      // The third message had waited, and was given the same promise.
      ['a', new RangeError('second')],
      ['a', new RangeError('second')],
    ]);
  });
});

describe('the size that the memory bus takes a body to have', () => {
  const accepts = (body: Body, maxPayloadBytes: number): boolean => {
    const bus = new MemoryBusServer({ clock: systemClock, maxPayloadBytes }).connect();
    try {
      bus.publish('a', body);
      return true;
    } catch (error) {
      expect(error).toBeInstanceOf(BusError);
      expect(error).toMatchObject({ code: 'PAYLOAD_TOO_LARGE' });
      return false;
    }
  };
  const bytesOf = (body: Body): number => Buffer.byteLength(JSON.stringify(body));

  it('is that of its JSON text, to the byte', () => {
    const key = fc.string({ unit: 'binary', maxLength: 60 });
    const body = fc.oneof(
      fc.array(fc.jsonValue({ stringUnit: 'binary' })),
      fc.dictionary(
        key,
        fc.oneof(
          fc.jsonValue(),
          fc.string({ unit: 'binary', maxLength: 200 }),
          fc.double(),
          fc.maxSafeInteger(),
          fc.date({ noInvalidDate: true }),
          fc.constantFrom(undefined, '\ud800', '\ude00\ud83d', -0, 1e21, '"\\\n\u007f'),
        ),
      ),
    );
    fc.assert(
      fc.property(body, (value) => {
        const bytes = bytesOf(value);
        expect([accepts(value, bytes), accepts(value, bytes - 1)]).toEqual([true, false]);
      }),
      { numRuns: 500 },
    );
  });

  it('is too much for what is cyclic, however it branches', () => {
    const loop: Record<string, unknown> = {};
    loop.left = loop;
    loop.right = [loop, loop];
    expect(accepts(loop, 8_388_608)).toBe(false);
  });

  it('is counted for what is nested deeply', () => {
    let body: Body = {};
    for (let depth = 0; depth < 900; depth++) body = [body];
    expect(accepts(body, bytesOf(body))).toBe(true);
    for (let depth = 0; depth < 200; depth++) body = [body];
    expect(accepts(body, bytesOf(body))).toBe(false);
  });
});
