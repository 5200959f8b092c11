/** Ids that sort by the time they were made. The only module that imports `uuid`. */
import { hash } from 'node:crypto';
import { v7 } from 'uuid';
import { type Clock, systemClock } from './clock.ts';

/** A new UUID version 7: its time and its randomness are the clock's, so that a simulator's run can be repeated. */
export function uuidv7(clock: Clock = systemClock): string {
  return v7({ msecs: clock.now(), random: randomBytes(clock) });
}

/** At least 16 bytes that nobody can guess. */
export function randomBytes(clock: Clock): Buffer {
  const id = clock.id();
  // The system's id is 16 random bytes as text; of another clock's only the whole is sure to be new.
  return clock === systemClock ? Buffer.from(id, 'base64url') : hash('sha256', id, 'buffer');
}
