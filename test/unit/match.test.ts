import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Interest, isPattern, isSubject } from '../../src/bus/match.ts';

/** The definition, token by token. */
function matches(pattern: readonly string[], subject: readonly string[]): boolean {
  const [wanted, ...more] = pattern;
  const [token, ...others] = subject;
  if (wanted === undefined || token === undefined) return wanted === token;
  if (wanted === '>') return true;
  return (wanted === '*' || wanted === token) && matches(more, others);
}

const token = fc.constantFrom('a', 'b', 'ab', 'constructor');
const subject = fc.array(token, { minLength: 1, maxLength: 4 }).map((tokens) => tokens.join('.'));
const pattern = fc
  .tuple(fc.array(fc.oneof(token, fc.constant('*')), { maxLength: 4 }), fc.boolean())
  .filter(([tokens, rest]) => tokens.length > 0 || rest)
  .map(([tokens, rest]) => [...tokens, ...(rest ? ['>'] : [])].join('.'));
const queue = fc.constantFrom(undefined, undefined, 'red', 'blue');

interface Subscriber {
  readonly id: number;
  readonly pattern: string;
  readonly queue: string | undefined;
}

describe('interest', () => {
  type Step =
    | { readonly do: 'add'; readonly pattern: string; readonly queue: string | undefined }
    | { readonly do: 'remove'; readonly which: number }
    | { readonly do: 'match'; readonly subject: string };
  const step: fc.Arbitrary<Step> = fc.oneof(
    { weight: 3, arbitrary: fc.record({ do: fc.constant('add' as const), pattern, queue }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('remove' as const), which: fc.nat() }) },
    { weight: 4, arbitrary: fc.record({ do: fc.constant('match' as const), subject }) },
  );

  it('finds every plain subscriber and one of each group, as the definition does, and keeps nothing', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
        const interest = new Interest<Subscriber>();
        const live = new Map<Subscriber, () => void>();
        for (const [id, next] of steps.entries()) {
          if (next.do === 'add') {
            const subscriber = { id, pattern: next.pattern, queue: next.queue };
            live.set(subscriber, interest.add(next.pattern, next.queue, subscriber));
          } else if (next.do === 'remove') {
            const entry = [...live][next.which % Math.max(1, live.size)];
            entry?.[1]();
            if (entry !== undefined) live.delete(entry[0]);
          } else check(interest.match(next.subject), [...live.keys()], next.subject);
        }
        for (const remove of live.values()) remove();
        expect(interest.size).toBe(0);
      }),
      { numRuns: 1_000 },
    );
  });

  function check(found: readonly Subscriber[], all: readonly Subscriber[], subject: string): void {
    const wanted = all.filter((each) => matches(each.pattern.split('.'), subject.split('.')));
    const plain = (list: readonly Subscriber[]): readonly number[] =>
      list
        .filter((each) => each.queue === undefined)
        .map(({ id }) => id)
        .toSorted((a, b) => a - b);
    expect(plain(found)).toEqual(plain(wanted));
    const queues = (list: readonly Subscriber[]): readonly string[] =>
      list.flatMap((each) => each.queue ?? []);
    expect(queues(found).toSorted()).toEqual([...new Set(queues(wanted))].toSorted());
    for (const each of found) expect(wanted).toContain(each);
  }

  it('gives each member of a group its turn', () => {
    const interest = new Interest<string>();
    for (const member of ['a', 'b', 'c']) interest.add('s', 'red', member);
    const had = Array.from({ length: 9 }, () => interest.match('s')).flat();
    expect(had.toSorted()).toEqual(['a', 'a', 'a', 'b', 'b', 'b', 'c', 'c', 'c']);
  });

  it('keeps the turns of one group on different subjects apart', () => {
    const interest = new Interest<string>();
    for (const subject of ['s', 't']) for (const member of ['a', 'b']) interest.add(subject, 'red', member);
    const had = Array.from({ length: 4 }, () => [interest.match('s'), interest.match('t')]).flat(2);
    expect(had.toSorted()).toEqual(['a', 'a', 'a', 'a', 'b', 'b', 'b', 'b']);
  });

  it('does not change what it has handed out', () => {
    const interest = new Interest<string>();
    const remove = interest.add('s', undefined, 'a');
    const found = interest.match('s');
    remove();
    interest.add('s', undefined, 'b');
    expect(found).toEqual(['a']);
  });
});

describe('the check of a subject', () => {
  /** The definition, as a regular expression. */
  const SUBJECT = /^[^\s\p{Cc}.*>]+(?:\.[^\s\p{Cc}.*>]+)*$/u;
  const PATTERN = /^(?:(?:[^\s\p{Cc}.*>]+|\*)(?:\.(?:[^\s\p{Cc}.*>]+|\*))*(?:\.>)?|>)$/u;
  const text = fc.string({
    unit: fc.constantFrom(
      'a',
      'Z',
      '-',
      '.',
      '.',
      '*',
      '>',
      ' ',
      '\n',
      '\u0000',
      '\u007f',
      '\u0085',
      '\u00a0',
      '\u2003',
      '\u00e9',
      '\ud83d\ude00',
    ),
    maxLength: 8,
  });

  it('agrees with the definition', () => {
    fc.assert(
      fc.property(fc.oneof(text, subject, pattern), (candidate) => {
        expect([isSubject(candidate), isPattern(candidate)]).toEqual([
          SUBJECT.test(candidate),
          PATTERN.test(candidate),
        ]);
      }),
      { numRuns: 2_000 },
    );
  });
});
