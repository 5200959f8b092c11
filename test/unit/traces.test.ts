/** The one module that makes spans: nothing without a provider, W3C headers with one. */
import { context, trace } from '@opentelemetry/api';
import { AlwaysOffSampler } from '@opentelemetry/sdk-trace';
import { afterEach, describe, expect, it } from 'vitest';
import { traceBytes, traceOf } from '../../src/bus/trace.ts';
import { openSpan, type SpanStart, tracing } from '../../src/traces.ts';
import { Tracing } from '../support/spans.ts';

let seen: Tracing | undefined;
afterEach(() => {
  seen?.stop();
  seen = undefined;
});

const start = (parent: SpanStart['parent'], attributes = {}): SpanStart => ({
  name: 'a span',
  kind: 'internal',
  parent,
  attributes,
});
const TRACE = 'ab'.repeat(16);
const SPAN = 'cd'.repeat(8);

describe('tracing', () => {
  it('is false until a provider is registered, true then, and false when it is gone', () => {
    expect(tracing()).toBe(false);
    // What others ask of the API before changes nothing.
    trace.getTracer('somebody').startSpan('early').end();
    expect(tracing()).toBe(false);
    seen = new Tracing();
    expect(tracing()).toBe(true);
    seen.stop();
    expect(tracing()).toBe(false);
  });
});

describe('a span', () => {
  it('is a child of what its headers say, and hands on headers of its own', () => {
    seen = new Tracing();
    const span = openSpan(start({ traceparent: `00-${TRACE}-${SPAN}-01`, tracestate: 'a=1' }));
    const { traceparent, tracestate } = span.headers;
    expect(traceparent).toMatch(new RegExp(`^00-${TRACE}-(?!${SPAN})[0-9a-f]{16}-01$`));
    expect(tracestate).toBe('a=1');
    span.end();
    expect(seen.spans[0]?.parentSpanContext).toMatchObject({ traceId: TRACE, spanId: SPAN, isRemote: true });
  });

  it('begins a trace where there is no parent, even within another span', () => {
    seen = new Tracing();
    trace.getTracer('user').startActiveSpan('outer', (outer) => {
      openSpan(start(undefined)).end();
      openSpan(start('active')).end();
      outer.end();
    });
    const outer = seen.spans.find(({ name }) => name === 'outer')?.spanContext();
    const parents = seen.spans.filter(({ name }) => name !== 'outer').map((span) => span.parentSpanContext);
    expect(parents).toHaveLength(2);
    expect(parents).toContain(undefined);
    expect(parents).toContainEqual(expect.objectContaining({ spanId: outer?.spanId }));
  });

  it('is what is active within it, also after waiting', async () => {
    seen = new Tracing();
    const span = openSpan(start(undefined));
    const active = await span.run(async () => {
      await Promise.resolve();
      return trace.getSpan(context.active())?.spanContext().spanId;
    });
    expect(span.headers.traceparent).toContain(active);
    expect(trace.getSpan(context.active())).toBeUndefined();
    span.end();
  });

  it('ends once: what comes first counts', () => {
    seen = new Tracing();
    const failed = openSpan(start(undefined));
    failed.end('TOOL_ERROR');
    failed.end();
    const fine = openSpan(start(undefined));
    fine.end();
    fine.end('TOOL_ERROR');
    expect(seen.spans.map(({ status }) => status.code)).toEqual([2, 0]);
    expect(seen.spans[0]?.attributes['error.type']).toBe('TOOL_ERROR');
  });

  it('that is not sampled says so to others', () => {
    seen = new Tracing(new AlwaysOffSampler());
    const span = openSpan(start({ traceparent: `00-${TRACE}-${SPAN}-00` }));
    expect(span.headers.traceparent).toMatch(new RegExp(`^00-${TRACE}-[0-9a-f]{16}-00$`));
    span.end();
    expect(seen.spans).toEqual([]);
  });
});

describe('headers of strangers', () => {
  const good = `00-${TRACE}-${SPAN}-01`;

  it('are taken if they are well-formed', () => {
    expect(traceOf(good)).toEqual({ traceparent: good });
    expect(traceOf(good, 'a=1')).toEqual({ traceparent: good, tracestate: 'a=1' });
  });

  it.each([
    undefined,
    '',
    7,
    'x',
    good.toUpperCase(),
    `${good}-extra`,
    `${good}\n`,
    `00-${'0'.repeat(32)}-${SPAN}-01`,
    `00-${TRACE}-${'0'.repeat(16)}-01`,
    `ff-${TRACE}-${SPAN}-01`,
  ])('are dropped if they are none: %o', (traceparent) => {
    expect(traceOf(traceparent)).toBeUndefined();
  });

  it.each(['', 'a\r\nb', 'ä', 'x'.repeat(513), 7])('lose a tracestate that is none: %o', (tracestate) => {
    expect(traceOf(good, tracestate)).toEqual({ traceparent: good });
  });

  it('take no more bytes than is reckoned with', () => {
    const tracestate = 'a'.repeat(512);
    const wire = `NATS/1.0\r\ntraceparent: ${good}\r\ntracestate: ${tracestate}\r\n\r\n`;
    expect(traceBytes({ traceparent: good, tracestate })).toBeGreaterThanOrEqual(wire.length);
    expect(traceBytes({ traceparent: good })).toBeGreaterThanOrEqual(
      `NATS/1.0\r\ntraceparent: ${good}\r\n\r\n`.length,
    );
  });
});
