/** What is said over the bus to whoever hears it, and what becomes of it when it cannot be sent. */
import { type Body, type Bus, BusError, isNobody } from './bus/bus.ts';

/** Publish what is said again, or asked for, where it did not arrive. Throws only what is no {@link BusError}: that is a mistake. */
export function publishOrDrop(bus: Pick<Bus, 'publish'>, subject: string, body: Body): void {
  try {
    bus.publish(subject, body);
  } catch (error) {
    if (!(error instanceof BusError)) throw error;
  }
}

/** Publish what is kept until it is acknowledged. False only if it is larger than the bus carries. Never throws. */
export function publishIfFits(bus: Pick<Bus, 'publish'>, subject: string, body: Body): boolean {
  try {
    bus.publish(subject, body);
  } catch (error) {
    return !(error instanceof BusError && error.code === 'PAYLOAD_TOO_LARGE');
  }
  return true;
}

/**
 * Send what is kept until it is acknowledged, and call `onNobody` if there is nobody to hear it, nor likely to be back. Who hears it
 * acknowledges it in his own time: that there is no answer within `timeoutMs` is the good one. Never throws.
 */
export function sendToSomebody(
  bus: Pick<Bus, 'request' | 'connectedMs'>,
  subject: string,
  body: Body,
  timeoutMs: number,
  onNobody: () => void,
): void {
  bus.request(subject, body, { timeoutMs }).catch((error: unknown) => {
    if (isNobody(error, bus)) onNobody();
  });
}
