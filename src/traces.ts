/**
 * Spans, over the OpenTelemetry API: the only module that imports it. Whoever uses the library registers an SDK, or does
 * not.
 *
 * Invariants:
 *  Y1  While no tracer provider is registered {@link tracing} is false; whoever asks it first makes no span, no attributes
 *      and no text.
 *  Y2  Attributes hold names, numbers and codes: never the text of a script, arguments, results or messages of errors.
 *  Y3  What is handed on is W3C Trace Context whatever propagator is registered, and of one who does not trace what he was
 *      given.
 */
import {
  type Attributes,
  type Context,
  context,
  createTraceState,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  type TracerProvider,
  trace,
} from '@opentelemetry/api';
import type { Bus, TraceHeaders } from './bus/bus.ts';

export type { Attributes };

/** Names the library to a tracer provider. */
const TRACER = 'enclave-actors';
const SAMPLED = 1;

const KINDS = {
  /** Asks another process, and waits for what comes of it. */
  client: SpanKind.CLIENT,
  /** Does what another process asked for. */
  server: SpanKind.SERVER,
  internal: SpanKind.INTERNAL,
} as const;

/** What a span is called, and what is known when it begins. Undefined values are left out. */
export interface SpanStart {
  readonly name: string;
  readonly kind: keyof typeof KINDS;
  /** `'active'`: what the caller of the library does now. Undefined: nothing, it begins a trace. */
  readonly parent: TraceHeaders | OpenSpan | 'active' | undefined;
  readonly attributes: Attributes;
}

/** True while somebody wants spans (Y1). */
export function tracing(): boolean {
  // The API's own provider stands for the registered one, and has none for itself.
  const provider = trace.getTracerProvider() as TracerProvider & {
    readonly getDelegateTracer?: (name: string) => unknown;
  };
  return provider.getDelegateTracer === undefined || provider.getDelegateTracer(TRACER) !== undefined;
}

/** Begin a span. Ask {@link tracing} first. */
export function openSpan({ name, kind, parent, attributes }: SpanStart): OpenSpan {
  const under = contextOf(parent);
  const span = trace.getTracer(TRACER).startSpan(name, { kind: KINDS[kind], attributes }, under);
  return new OpenSpan(span, under);
}

/** Attributes of a message, by OpenTelemetry's conventions. `operation`: of who sends it, or of who acts on it. */
export function messageAttributes(
  { system = 'memory' }: Bus,
  operation: 'send' | 'process',
  destination: string,
): Attributes {
  return {
    'messaging.system': system,
    'messaging.operation.type': operation,
    'messaging.operation.name': operation === 'send' ? 'request' : 'process',
    'messaging.destination.name': destination,
  };
}

export class OpenSpan {
  readonly #span: Span;
  readonly #under: Context;
  #headers: TraceHeaders | undefined;

  /** @internal Use {@link openSpan}. */
  constructor(span: Span, under: Context) {
    this.#span = span;
    this.#under = under;
  }

  get context(): Context {
    return trace.setSpan(this.#under, this.#span);
  }

  /** Its place in the trace, for those who are asked on its behalf. */
  get headers(): TraceHeaders {
    this.#headers ??= headersOf(this.#span);
    return this.#headers;
  }

  set(attributes: Attributes): void {
    this.#span.setAttributes(attributes);
  }

  /** Something happened at this moment. */
  event(name: string, attributes: Attributes = {}): void {
    this.#span.addEvent(name, attributes);
  }

  /** Run something as a part of it: spans that are begun in there, and in what that awaits, are its children. */
  run<T>(act: () => T): T {
    return context.with(this.context, act);
  }

  /** It is over. `code`: why it failed; undefined if it did not. Only the first call counts. */
  end(code?: string): void {
    if (!this.#span.isRecording()) return;
    if (code !== undefined) {
      this.#span.setAttribute('error.type', code);
      this.#span.setStatus({ code: SpanStatusCode.ERROR, message: code }); // Y2
    }
    this.#span.end();
  }
}

function contextOf(parent: SpanStart['parent']): Context {
  if (parent === 'active') return context.active();
  if (parent === undefined) return ROOT_CONTEXT;
  if (parent instanceof OpenSpan) return parent.context;
  const { traceparent, tracestate } = parent;
  // It was checked where it came in.
  const [, traceId = '', spanId = '', flags = ''] = traceparent.split('-');
  const traceState = tracestate === undefined ? undefined : createTraceState(tracestate);
  return trace.setSpanContext(ROOT_CONTEXT, {
    traceId,
    spanId,
    traceFlags: Number.parseInt(flags, 16) & SAMPLED,
    isRemote: true,
    ...(traceState === undefined ? {} : { traceState }),
  });
}

/** Y3 */
function headersOf(span: Span): TraceHeaders {
  const { traceId, spanId, traceFlags, traceState } = span.spanContext();
  const traceparent = `00-${traceId}-${spanId}-0${traceFlags & SAMPLED}`;
  const tracestate = traceState?.serialize() ?? '';
  return tracestate === '' ? { traceparent } : { traceparent, tracestate };
}
