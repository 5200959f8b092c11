/** Trace headers as they come from a stranger: only what W3C Trace Context allows is let in. */
import type { TraceHeaders } from './bus.ts';

/** Version 00. Ids of zeros only are invalid. */
const TRACEPARENT = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;
/** Printable ASCII, as long as the specification wants it to be passed on. */
const TRACESTATE = /^[\x20-\x7e]{1,512}$/;
/** Bytes beside the values: `NATS/1.0`, the names, separators and ends of lines. */
const ENVELOPE_BYTES = 64;

/** Undefined for what is no trace. A `tracestate` that is none is left out. */
export function traceOf(traceparent: unknown, tracestate?: unknown): TraceHeaders | undefined {
  if (typeof traceparent !== 'string' || !TRACEPARENT.test(traceparent)) return undefined;
  if (typeof tracestate !== 'string' || !TRACESTATE.test(tracestate)) return { traceparent };
  return { traceparent, tracestate };
}

/** What they take on the wire at most, in bytes. */
export function traceBytes({ traceparent, tracestate = '' }: TraceHeaders): number {
  return ENVELOPE_BYTES + traceparent.length + tracestate.length;
}
