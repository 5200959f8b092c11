/** What seeds `Math.random` in a script. */
import { hash } from 'node:crypto';
import type { Clock } from './clock.ts';
import { invalidArgument } from './errors.ts';
import { randomBytes } from './ids.ts';

export type SeedWords = readonly [number, number, number, number];

/**
 * The four words of a seed: of its text if there is one, so that equal seeds give equal scripts the same numbers;
 * else random ones of the clock. Throws INVALID_ARGUMENT naming `key`.
 */
export function seedWords(seed: string | number | undefined, clock: Clock, key = 'options.seed'): SeedWords {
  if (seed === undefined) return words(randomBytes(clock));
  if (typeof seed !== 'string' && !(typeof seed === 'number' && Number.isFinite(seed)))
    throw invalidArgument(key, 'must be a string or a finite number');
  return words(hash('sha256', String(seed), 'buffer'));
}

function words(bytes: Buffer): SeedWords {
  return [bytes.readUInt32LE(0), bytes.readUInt32LE(4), bytes.readUInt32LE(8), bytes.readUInt32LE(12)];
}
