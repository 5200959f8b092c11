/** What was not taken: requests refused because something was full, and messages that were malformed or not permitted. */
import type { Registry } from 'prom-client';
import type { DeadLetter, Full, Losses } from '../../losses.ts';
import { counterOf } from './registry.ts';

export function meterLosses(registry: Registry): Losses {
  return { overloaded: meterRejections(registry), dropped: meterDeadLetters(registry) };
}

export function meterRejections(registry: Registry): (full: Full) => void {
  const rejections = counterOf(registry, 'enclave_mailbox_rejections_total');
  return (reason) => rejections.inc({ reason });
}

export function meterDeadLetters(registry: Registry): (letter: DeadLetter) => void {
  const letters = counterOf(registry, 'enclave_dead_letters_total');
  return (reason) => letters.inc({ reason });
}
