/**
 * A broker's bus, with a short way to the tools of its own process: a call of one of them is handed to their provider
 * without a message. What that does not take goes over the bus, to any other.
 */
import type { Body, Bus, TraceHeaders } from './bus/bus.ts';

/** Answers a request as it would over the bus. Undefined: it has not taken it, and nothing was done. */
export interface Near {
  take(subject: string, body: Body, trace: TraceHeaders | undefined): Promise<Body> | undefined;
}

export function nearBus(bus: Bus, near: Near): Bus {
  return {
    system: bus.system,
    // It may change when the bus connects to another server.
    get maxPayloadBytes() {
      return bus.maxPayloadBytes;
    },
    get connectedMs() {
      return bus.connectedMs;
    },
    publish: (subject, body) => bus.publish(subject, body),
    request: (subject, body, options) =>
      near.take(subject, body, options.trace) ?? bus.request(subject, body, options),
    subscribe: (subject, handler, options) => bus.subscribe(subject, handler, options),
    flush: () => bus.flush(),
    close: () => bus.close(),
  };
}
