/** A tracer provider that keeps its spans, and how they hang together. */
import { context, trace } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import {
  InMemorySpanExporter,
  type ReadableSpan,
  type Sampler,
  SimpleSpanProcessor,
  TracerProvider,
} from '@opentelemetry/sdk-trace';

export interface SpanTree {
  readonly name: string;
  readonly children: readonly SpanTree[];
}

export class Tracing {
  readonly #exporter = new InMemorySpanExporter();

  /** Registered for the whole process, until {@link stop}. */
  constructor(sampler?: Sampler) {
    const spanProcessors = [new SimpleSpanProcessor({ exporter: this.#exporter })];
    context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
    trace.setGlobalTracerProvider(
      new TracerProvider({ spanProcessors, ...(sampler === undefined ? {} : { sampler }) }),
    );
  }

  stop(): void {
    trace.disable();
    context.disable();
    this.#exporter.reset();
  }

  /** Those that have ended, in the order of their beginnings. */
  get spans(): readonly ReadableSpan[] {
    const beganAt = ({ startTime: [seconds, nanos] }: ReadableSpan): number => seconds * 1e9 + nanos;
    return this.#exporter.getFinishedSpans().toSorted((one, other) => beganAt(one) - beganAt(other));
  }

  /** Those of a name. */
  named(name: string): readonly ReadableSpan[] {
    return this.spans.filter((span) => span.name === name);
  }

  forget(): void {
    this.#exporter.reset();
  }
}

/** The spans as trees: those whose parent is not among them are roots. Siblings by name. */
export function treesOf(spans: readonly ReadableSpan[]): readonly SpanTree[] {
  const ids = new Set(spans.map((span) => span.spanContext().spanId));
  const under = (parent: string | undefined): readonly SpanTree[] =>
    spans
      .filter(({ parentSpanContext: { spanId } = { spanId: undefined } }) =>
        parent === undefined ? spanId === undefined || !ids.has(spanId) : spanId === parent,
      )
      .map((span) => ({ name: span.name, children: under(span.spanContext().spanId) }))
      .toSorted((one, other) => one.name.localeCompare(other.name));
  return under(undefined);
}

/** `a(b c(d))` */
export function showTree(trees: readonly SpanTree[]): string {
  return trees
    .map(({ name, children }) => (children.length === 0 ? name : `${name}(${showTree(children)})`))
    .join(' ');
}
