import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { ProtocolError, parseWorkerMessage } from '../../src/sandbox/messages.ts';

const parse = (message: unknown) => parseWorkerMessage(JSON.stringify(message));

const END = { ok: false, code: 'SCRIPT_ERROR', name: 'Error', message: 'm', stack: 's' };
const STEP = { t: 'step', x: 1, n: 0, cpu: 1.5, heap: 2, s: { items: [] as unknown[] } };
const STOPPED = { t: 'stopped', x: 1, code: 'SYNTAX_ERROR', message: 'm', stack: 's', cpu: 1, heap: 0 };
const READY = { t: 'ready', engine: 'e', prelude: 'p', stripper: 's' };

describe('a message of a worker', () => {
  it('is read into an object of ours with the known fields only', () => {
    const items = [
      ['o', 'out', 'extra'],
      ['l', 'warn', 'log'],
      ['c', 0, 'tool', '{}'],
      ['s', 1, 5],
    ];
    expect(
      parse({ ...STEP, s: { items, end: { ...END, retryable: true }, more: 1 }, success: true }),
    ).toEqual({
      t: 'step',
      x: 1,
      items: [
        { kind: 'output', level: '', text: 'out' },
        { kind: 'output', level: 'warn', text: 'log' },
        { kind: 'call', index: 0, name: 'tool', json: '{}' },
        { kind: 'sleep', index: 1, ms: 5 },
      ],
      applied: 0,
      end: END,
      usage: { cpu: 1.5, heap: 2 },
    });
    expect(parse({ ...STEP, s: { items: [], end: { ok: true, json: '1', code: 'x' } } })).toMatchObject({
      end: { ok: true, json: '1', state: undefined },
    });
    expect(parse({ ...STEP, s: { items: [], end: { ok: true, json: '', state: '{}' } } })).toMatchObject({
      end: { ok: true, json: '', state: '{}' },
    });
    expect(parse({ ...STOPPED, extra: 1 })).toEqual({
      t: 'stopped',
      x: 1,
      code: 'SYNTAX_ERROR',
      message: 'm',
      stack: 's',
      usage: { cpu: 1, heap: 0 },
    });
    expect(parse({ t: 'preempted', x: 3, heavy: true, y: 1 })).toEqual({ t: 'preempted', x: 3, heavy: true });
    expect(parse({ t: 'items', x: 3, items: [] })).toEqual({ t: 'items', x: 3, items: [] });
    expect(parse({ t: 'pong', n: 3 })).toEqual({ t: 'pong', n: 3 });
    expect(parse({ t: 'stuck', x: 3 })).toEqual({ t: 'stuck' });
    expect(parse({ ...READY, x: 1 })).toEqual(READY);
  });

  it.each([
    ['', 'not JSON'],
    ['{', 'not JSON'],
    ['{"t":"ready"}{"t":"ready"}', 'not JSON'],
    ['undefined', 'not JSON'],
    ['null', 'not an object'],
    ['1', 'not an object'],
    ['"ready"', 'not an object'],
    ['[]', 'not an object'],
    ['[{"t":"pong","n":1}]', 'not an object'],
    ['{}', 'unknown message'],
    ['{"t":null}', 'unknown message'],
    ['{"t":["pong"]}', 'unknown message'],
    ['{"t":"start","x":1}', 'unknown message'],
    ['{"t":"constructor"}', 'unknown message'],
    ['{"t":"__proto__"}', 'unknown message'],
    ['{"__proto__":{"t":"pong","n":1}}', 'unknown message'],
    ['{"t":"pong","__proto__":{"n":1}}', 'not a whole number'],
  ])('%s is refused: %s', (text, why) => {
    expect(() => parseWorkerMessage(text)).toThrow(ProtocolError);
    expect(() => parseWorkerMessage(text)).toThrow(why);
  });

  it.each([
    ['an attempt', { ...STEP, x: '1' }],
    ['an attempt', { ...STEP, x: -1 }],
    ['an attempt', { ...STEP, x: 1.5 }],
    ['an attempt', { ...STEP, x: 2 ** 53 }],
    ['an attempt', { ...STEP, x: null }],
    ['an attempt', { t: 'preempted', x: [1] }],
    ['an attempt', { t: 'items', items: [] }],
    ['applied deliveries', { ...STEP, n: -1 }],
    ['CPU time', { ...STEP, cpu: '1' }],
    ['CPU time', { ...STEP, cpu: -1 }],
    ['a heap', { ...STEP, heap: null }],
    ['a step', { ...STEP, s: null }],
    ['a step', { ...STEP, s: [] }],
    ['items', { ...STEP, s: {} }],
    ['items', { ...STEP, s: { items: { length: 1, 0: ['o', 'x'] } } }],
    ['items', { t: 'items', x: 1, items: 'abc' }],
    ['an item', { t: 'items', x: 1, items: ['o'] }],
    ['an item', { t: 'items', x: 1, items: [null] }],
    ['an item', { t: 'items', x: 1, items: [[]] }],
    ['an item', { t: 'items', x: 1, items: [['__proto__', 1]] }],
    ['an item', { t: 'items', x: 1, items: [{ 0: 'o', 1: 'x' }] }],
    ['output', { t: 'items', x: 1, items: [['o', 1]] }],
    ['a level', { t: 'items', x: 1, items: [['l', 'fatal', 'x']] }],
    ['a level', { t: 'items', x: 1, items: [['l', 'constructor', 'x']] }],
    ['a level', { t: 'items', x: 1, items: [['l', ['warn'], 'x']] }],
    ['a call', { t: 'items', x: 1, items: [['c', 0, { toString: 'echo' }, '']] }],
    ['a call', { t: 'items', x: 1, items: [['c', 0, 'echo', { a: 1 }]] }],
    ['a call', { t: 'items', x: 1, items: [['c', -1, 'echo', '']] }],
    ['a call', { t: 'items', x: 1, items: [['c', '0', 'echo', '']] }],
    ['a sleep', { t: 'items', x: 1, items: [['s', 0, '1']] }],
    ['a sleep', { t: 'items', x: 1, items: [['s', 0, -1]] }],
    ['an end', { ...STEP, s: { items: [], end: null } }],
    ['an end', { ...STEP, s: { items: [], end: [] } }],
    ['an end', { ...STEP, s: { items: [], end: { ok: true, json: { a: 1 } } } }],
    ['a state', { ...STEP, s: { items: [], end: { ok: true, json: '', state: {} } } }],
    ['an end', { ...STEP, s: { items: [], end: { ...END, ok: 1, code: 'EXECUTION_TIMEOUT' } } }],
    ['an end', { ...STEP, s: { items: [], end: { ...END, code: 'constructor' } } }],
    ['an end', { ...STEP, s: { items: [], end: { ...END, message: undefined } } }],
    ['an end', { ...STEP, s: { items: [], end: { ...END, stack: {} } } }],
    ['a stop', { ...STOPPED, code: 'EXECUTION_TIMEOUT' }],
    ['a stop', { ...STOPPED, code: 'WORKER_CRASHED' }],
    ['a stop', { ...STOPPED, message: null }],
    ['readiness', { ...READY, engine: 1 }],
  ])('%s of a wrong type is refused (%#)', (_what, message) => {
    expect(() => parse(message)).toThrow(ProtocolError);
  });

  it.each([
    '{"t":"items","x":1,"items":[["s",0,1e999]]}',
    '{"t":"step","x":1,"n":0,"cpu":1e999,"heap":0,"s":{"items":[]}}',
    '{"t":"step","x":1,"n":0,"cpu":0,"heap":1e999,"s":{"items":[]}}',
    '{"t":"pong","n":1e999}',
  ])('a number beyond all numbers is refused: %s', (text) => {
    expect(() => parseWorkerMessage(text)).toThrow(ProtocolError);
  });

  it('cannot ask for a longer timer than there is', () => {
    const message = parse({ t: 'items', x: 1, items: [['s', 0, 1e300]] });
    expect(message).toMatchObject({ items: [{ kind: 'sleep', index: 0, ms: 2_147_483_647 }] });
  });

  it('cannot make the texts of an error as long as a frame', () => {
    const long = 'x'.repeat(1_000_000);
    const step = parse({
      ...STEP,
      s: { items: [], end: { ...END, name: long, message: long, stack: long } },
    });
    const stopped = parse({ ...STOPPED, message: long, stack: long });
    for (const message of [step, stopped]) expect(JSON.stringify(message).length).toBeLessThan(40_000);
  });

  it('leaves what the guest wrote as text, so that no key of a script becomes a key of ours', () => {
    const json = '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}';
    const message = parse({ ...STEP, s: { items: [['c', 0, '__proto__', json]], end: { ok: true, json } } });
    expect(message).toMatchObject({ items: [{ name: '__proto__', json }], end: { ok: true, json } });
    expect(Object.hasOwn(Object.prototype, 'polluted')).toBe(false);
  });
});

describe('whatever bytes a worker sends', () => {
  /** A message of ours or a ProtocolError, and nothing else. */
  function outcome(text: string): string {
    try {
      const message = parseWorkerMessage(text);
      expect(Object.getPrototypeOf(message)).toBe(Object.prototype);
      return message.t;
    } catch (error) {
      expect(error).toBeInstanceOf(ProtocolError);
      return 'refused';
    }
  }

  it('any text is a message or a ProtocolError', () => {
    fc.assert(fc.property(fc.oneof(fc.string(), fc.json()), (text) => void outcome(text)));
  });

  it('any JSON with our keys is a message or a ProtocolError', () => {
    const word = fc.constantFrom(
      'step',
      'items',
      'preempted',
      'stopped',
      'pong',
      'ready',
      'o',
      'l',
      'c',
      's',
      'a',
      'warn',
      'SCRIPT_ERROR',
      'CANCELLED',
      '__proto__',
    );
    const leaf = fc.oneof(word, fc.integer(), fc.double(), fc.boolean(), fc.constant(null), fc.string());
    const { node } = fc.letrec((tie) => ({
      node: fc.oneof({ maxDepth: 4 }, leaf, fc.array(tie('node'), { maxLength: 4 }), tie('record')),
      record: fc.dictionary(
        fc.constantFrom(
          't',
          'x',
          'n',
          's',
          'items',
          'end',
          'ok',
          'json',
          'code',
          'name',
          'message',
          'stack',
          'cpu',
          'heap',
          'heavy',
          '__proto__',
          'constructor',
        ),
        tie('node'),
        { maxKeys: 9 },
      ),
    }));
    fc.assert(
      fc.property(node, (value) => void outcome(JSON.stringify(value))),
      { numRuns: 500 },
    );
  });

  it('a good message with one field changed is refused, or differs in that field only', () => {
    const good = {
      ...STEP,
      s: {
        items: [
          ['o', 'x'],
          ['c', 0, 'echo', '1'],
        ],
        end: END,
      },
    };
    const paths: (readonly (string | number)[])[] = [
      ['x'],
      ['n'],
      ['cpu'],
      ['heap'],
      ['s'],
      ['s', 'items'],
      ['s', 'items', 0],
      ['s', 'items', 0, 0],
      ['s', 'items', 1, 1],
      ['s', 'items', 1, 2],
      ['s', 'items', 1, 3],
      ['s', 'end'],
      ['s', 'end', 'ok'],
      ['s', 'end', 'code'],
      ['s', 'end', 'message'],
    ];
    fc.assert(
      fc.property(fc.constantFrom(...paths), fc.jsonValue(), (at, value) => {
        const changed = structuredClone(good) as Record<string | number, unknown>;
        let holder = changed;
        for (const key of at.slice(0, -1)) holder = holder[key] as Record<string | number, unknown>;
        holder[at.at(-1) ?? ''] = value;
        void outcome(JSON.stringify(changed));
      }),
      { numRuns: 500 },
    );
  });
});
