/** The soak has looked at everything, or says what it has not looked at. */
import { describe, expect, it } from 'vitest';
import { EXPECTED, type Figure, unjudged } from '../soak/figures.ts';
import { REPLACED } from '../soak/members.ts';
import { judge } from '../soak/slope.ts';

interface Looked {
  readonly name: string;
  readonly figure: Figure;
  readonly judgement: ReturnType<typeof judge>;
}

const looks = (count: number): ReturnType<typeof judge> =>
  judge(
    Array.from({ length: count }, (_, index) => ({ at: index * 1_000, value: 1 })),
    { noise: 1, perMinute: 0 },
  );

/** Every figure of every member, so often. */
const everything = (count: number): readonly Looked[] =>
  Object.entries(EXPECTED).flatMap(([name, figures]) =>
    figures.map((figure) => ({ name, figure, judgement: looks(count) })),
  );

describe('a soak', () => {
  it('has nothing to say of figures that were all judged', () => {
    expect(unjudged(everything(20), true)).toEqual([]);
  });

  it('says which figure of a process that lasts was looked at too seldom, if it was long enough', () => {
    expect(unjudged(everything(3), true)).toContain('held of broker-1 was looked at too seldom to be judged');
    expect(unjudged(everything(3), true)).toContain(
      'keys of redis-server was looked at too seldom to be judged',
    );
    expect(unjudged(everything(3), false)).toEqual([]);
  });

  it('expects no verdict of those that are replaced, and one life of the others is enough', () => {
    const said = unjudged(everything(3), true).join();
    for (const name of REPLACED) expect(said).not.toContain(name);
    expect(unjudged([...everything(3), ...everything(20)], true)).toEqual([]);
  });

  it('says which figure was never looked at, however short it was', () => {
    const but = everything(20).filter(({ name, figure }) => name !== 'runtime-2' || figure !== 'held');
    expect(unjudged(but, false)).toEqual(['held of runtime-2 was never looked at']);
    expect(unjudged([], false)).toHaveLength(everything(1).length);
  });
});
