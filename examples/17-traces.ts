/** One trace from the caller to the spans of a tool's own handler, through session, runtime and worker. */
import { context, trace } from '@opentelemetry/api';
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks';
import { InMemorySpanExporter, SimpleSpanProcessor, TracerProvider } from '@opentelemetry/sdk-trace';
// In a service of your own: from 'enclave-actors'.
import { createSystem, defineTool } from '#enclave';

const exporter = new InMemorySpanExporter();
context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
trace.setGlobalTracerProvider(
  new TracerProvider({ spanProcessors: [new SimpleSpanProcessor({ exporter })] }),
);
const tracer = trace.getTracer('shop');

const count = defineTool({
  name: 'stock:count',
  effect: 'read',
  // What it does is a part of the call that it serves.
  handler: async () => {
    const span = tracer.startSpan('select from stock');
    await new Promise((resolve) => setTimeout(resolve, 5));
    span.end();
    return 3;
  },
});

await using system = await createSystem({ tools: [count], pool: { poolSize: 1 } });
await tracer.startActiveSpan('order', async (span) => {
  const session = await system.spawnSession();
  await session.execute('return await callTool("stock:count")').result;
  span.end();
});
await system.drain();

const spans = exporter.getFinishedSpans();
const print = (parent: string | undefined, indent: string): void => {
  for (const span of spans) {
    if (span.parentSpanContext?.spanId !== parent) continue;
    const { name, attributes, duration } = span;
    const ms = (duration[0] * 1_000 + duration[1] / 1e6).toFixed(1);
    const tool = attributes['enclave.tool.name'];
    console.log(`${indent}${name}  ${ms} ms${tool === undefined ? '' : `  ${tool}`}`);
    print(span.spanContext().spanId, `${indent}  `);
  }
};
print(undefined, '');
console.log(`traces  ${new Set(spans.map((span) => span.spanContext().traceId)).size}`);
