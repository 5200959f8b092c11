/** What sandbox, runtime and session say of an attempt in the same words. */
import { describe, expect, it } from 'vitest';
import { refusalText, replayLimits } from '../../actors/attempt.ts';

describe('the limits of a replay', () => {
  it('are three times those of a first attempt for time, and the same for all else', () => {
    const limits = { timeoutMs: 30_000, cpuMs: 5_000, maxToolCalls: 7 };
    expect(replayLimits(limits)).toEqual({ timeoutMs: 90_000, cpuMs: 15_000, maxToolCalls: 7 });
    expect(limits.timeoutMs).toBe(30_000);
  });

  it('are an hour at most', () => {
    expect(replayLimits({ timeoutMs: 3_600_000, cpuMs: 1_200_001 })).toEqual({
      timeoutMs: 3_600_000,
      cpuMs: 3_600_000,
    });
    expect(replayLimits({ timeoutMs: 1_200_000, cpuMs: 1 })).toEqual({ timeoutMs: 3_600_000, cpuMs: 3 });
  });
});

it('a call that is not made says whether there is such a tool', () => {
  expect(refusalText('UNKNOWN_TOOL', 'a.b')).toBe('There is no tool "a.b"');
  expect(refusalText('TOOL_NOT_ALLOWED', 'a.b')).toBe('This script may not call the tool "a.b"');
});
