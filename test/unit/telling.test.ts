/** What becomes of what cannot be sent. */
import { describe, expect, it } from 'vitest';
import { BusError, type BusErrorCode } from '../../src/bus/bus.ts';
import { publishIfFits, publishOrDrop, sendToSomebody } from '../../src/telling.ts';

const refusing = (code: BusErrorCode) => failing(new BusError(code, 'subject', 'as the test has it'));
const MISTAKE = new TypeError('a mistake of ours');
const failing = (error: Error) => ({
  publish: (): void => {
    throw error;
  },
});

describe('what is published and may be dropped', () => {
  it.each(['CLOSED', 'PAYLOAD_TOO_LARGE', 'BAD_SUBJECT'] as const)(
    'is dropped by a bus that says %s',
    (code) => {
      expect(() => publishOrDrop(refusing(code), 'subject', {})).not.toThrow();
    },
  );

  it('does not hide a mistake', () => {
    expect(() => publishOrDrop(failing(MISTAKE), 'subject', {})).toThrow(MISTAKE);
  });
});

describe('what is published and kept', () => {
  it('is known to be too large, and nothing else matters', () => {
    expect(publishIfFits({ publish: () => undefined }, 'subject', {})).toBe(true);
    expect(publishIfFits(refusing('PAYLOAD_TOO_LARGE'), 'subject', {})).toBe(false);
    expect(publishIfFits(refusing('CLOSED'), 'subject', {})).toBe(true);
    expect(publishIfFits(failing(MISTAKE), 'subject', {})).toBe(true);
  });
});

describe('what is sent to somebody', () => {
  const nobodyAfter = async (outcome: Promise<object>): Promise<boolean> => {
    let nobody = false;
    const asked: unknown[] = [];
    const bus = {
      request: (subject: string, body: object, { timeoutMs }: { readonly timeoutMs: number }) => {
        asked.push([subject, body, timeoutMs]);
        return outcome;
      },
    };
    sendToSomebody(bus, 'subject', { n: 1 }, 250, () => {
      nobody = true;
    });
    await outcome.catch(() => undefined);
    await Promise.resolve();
    expect(asked).toEqual([['subject', { n: 1 }, 250]]);
    return nobody;
  };

  it('has reached nobody only if the bus knows that', async () => {
    const rejected = (code: BusErrorCode) =>
      Promise.reject(new BusError(code, 'subject', 'as the test has it'));
    expect(await nobodyAfter(rejected('NO_RESPONDERS'))).toBe(true);
    expect(await nobodyAfter(rejected('TIMEOUT'))).toBe(false);
    expect(await nobodyAfter(Promise.reject(MISTAKE))).toBe(false);
    expect(await nobodyAfter(Promise.resolve({}))).toBe(false);
  });
});
