import { describe, expect, it } from 'vitest';
import { parsedOrNothing, plainState, scriptFrames } from '../../src/sandbox/text.ts';

describe('the frames of a stack', () => {
  it('stay where they are the script’s', () => {
    const stack = 'Error: x\n    at f (script.js:1:2)\n    at script.js:3:4';
    expect(scriptFrames(stack)).toBe(stack);
  });

  it('go where one of them is the guest’s', () => {
    expect(scriptFrames('RangeError: x\n    at dive (guest:10:2)\n    at script.js:3:4')).toBe(
      'RangeError: x',
    );
    expect(scriptFrames('RangeError: x\n\tat guest:10:2')).toBe('RangeError: x');
  });

  it.each([
    ['lines', '\n'.repeat(8_000)],
    ['spaces', ' '.repeat(8_000)],
    ['beginnings', '\n    at '.repeat(1_100)],
    ['beginnings without a line feed', '\r    at '.repeat(1_100)],
    ['separators', '\u2028   at '.repeat(1_100)],
    ['almost frames', '    at guest:'.repeat(600)],
    ['blanks of all kinds', '\n \t\u00a0'.repeat(2_000)],
  ])('are looked for in time that grows with the text, not with its square: %s', (_name, stack) => {
    // 64 times the text takes 64 times as long; if it were the square, more than a minute.
    expect(scriptFrames(stack.repeat(64)).length).toBe(stack.length * 64);
  });
});

it('a text that is no JSON says nothing', () => {
  expect([parsedOrNothing('{'), parsedOrNothing(''), parsedOrNothing('[1]')]).toEqual([
    undefined,
    undefined,
    [1],
  ]);
  expect([plainState('{}'), plainState('[]'), plainState('null'), plainState('{')]).toEqual([
    true,
    false,
    false,
    false,
  ]);
});
