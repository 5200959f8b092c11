/**
 * One trace of everything that an execution is, over a real nats-server: client, broker, runtime and provider are in this
 * process, and speak to each other over NATS.
 */

import { connect, headers, type NatsConnection } from '@nats-io/transport-node';
import { trace } from '@opentelemetry/api';
import { AlwaysOffSampler } from '@opentelemetry/sdk-trace';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { NatsLink } from '../../src/bus/nats.ts';
import { createSystem, defineTool, type ExecutionResult } from '../../src/index.ts';
import { type NatsServer, startNats } from '../support/nats.ts';
import { Parts } from '../support/parts.ts';
import { showTree, Tracing, treesOf } from '../support/spans.ts';
import { Gate } from '../support/systems.ts';
import { errorIn, valueIn } from './ends.ts';

const SECRET = 'confidential-51c7';
/** What an execution with one call looks like, under whoever asked for it. */
const EXECUTION =
  'enclave.execution(enclave.attempt(enclave.worker) enclave.call(enclave.tool(handler work)))';

let nats: NatsServer;
let wire: NatsConnection;
let tracing: Tracing | undefined;
let gate = new Gate();
const opened: { close(): Promise<void> }[] = [];

beforeAll(async () => {
  nats = await startNats();
  wire = await connect({ servers: nats.url });
});
afterEach(async () => {
  gate.open();
  await Promise.all(opened.splice(0).map((each) => each.close()));
  tracing?.stop();
  tracing = undefined;
  gate = new Gate();
});
afterAll(async () => {
  await wire.close();
  await nats.stop();
});

const tools = [
  defineTool({
    name: 'letters:weigh',
    effect: 'read',
    handler: async (args) => {
      const span = trace.getTracer('user').startSpan('handler work');
      await Promise.resolve();
      span.end();
      return args;
    },
  }),
  defineTool({
    name: 'letters:send',
    effect: 'idempotent',
    handler: async () => {
      const span = trace.getTracer('user').startSpan('handler work');
      await gate.pass();
      span.end();
      return SECRET;
    },
  }),
];

/** A client, a broker, a runtime and a provider, each with a handle of its own on the server. */
async function cluster(): Promise<Parts> {
  const link = await NatsLink.open({ servers: nats.url });
  const parts = new Parts(tools, link);
  opened.push(parts);
  await parts.broker('b1');
  await parts.runtime('r1');
  await parts.known(1);
  return parts;
}

/** Ended, and all spans of the same trace. */
async function traceOf(parts: Pick<Parts, 'until'>, seen: Tracing, count: number): Promise<string> {
  await parts.until(() => seen.spans.length >= count, `${count} spans have ended`);
  expect(new Set(seen.spans.map((span) => span.spanContext().traceId)).size).toBe(1);
  return showTree(treesOf(seen.spans));
}

const wait: Pick<Parts, 'until'> = {
  until: (claim, what) => expect.poll(claim, { message: what, timeout: 20_000 }).toBe(true),
};

describe('over NATS', () => {
  it('a stateless run is one trace: client, broker, runtime, worker, call, provider, handler', async () => {
    const parts = await cluster();
    const seen = (tracing = new Tracing());
    const result = await trace.getTracer('user').startActiveSpan('the caller', async (span) => {
      const ended = await parts.client.run('return await callTool("letters:weigh", 7)', { tenant: 'acme' });
      span.end();
      return ended;
    });
    expect(valueIn(result)).toBe(7);
    expect(await traceOf(parts, seen, 8)).toBe(`the caller(enclave.run(${EXECUTION}))`);
    expect(seen.named('enclave.run')[0]?.attributes).toMatchObject({
      'messaging.system': 'nats',
      'messaging.destination.name': 'enclave.test.broker.run',
      'enclave.execution.id': result.executionId,
      'enclave.tenant': 'acme',
      'enclave.outcome': 'completed',
    });
    expect(seen.named('enclave.attempt')[0]?.attributes).toMatchObject({ 'enclave.runtime.id': 'r1' });
    expect(seen.named('enclave.worker')[0]?.attributes).toEqual({ 'enclave.worker.id': expect.any(String) });
    expect(seen.named('enclave.tool')[0]?.attributes).toMatchObject({
      'enclave.tool.name': 'letters.weigh',
      'enclave.tool.effect': 'read',
      'enclave.provider.id': 'provider',
    });
  });

  it('an execution of a durable session is one trace', async () => {
    const parts = await cluster();
    const session = await parts.session();
    const seen = (tracing = new Tracing());
    gate.open();
    const result = await session.execute('return await callTool("letters:send", 1)').result;
    expect(valueIn(result)).toBe(SECRET);
    expect(await traceOf(parts, seen, 7)).toBe(`enclave.execute(${EXECUTION})`);
  });

  it('an execution stays in its trace when another broker takes its session over', async () => {
    const parts = await cluster();
    const session = await parts.session();
    const seen = (tracing = new Tracing());
    const handle = session.execute('await callTool("letters:send", 1); return 2');
    await parts.until(() => gate.waiting === 1, 'the call is under way');
    const second = await parts.broker('b2');
    await session.migrate({ to: 'b2' });
    gate.open();
    expect(valueIn(await handle.result)).toBe(2);
    expect(second.actor(session.id)).toBeDefined();
    await parts.until(() => seen.named('enclave.execution').length === 2, 'both owners have told');
    await parts.until(() => seen.named('enclave.execute').length === 1, 'the client has told');
    const executions = seen.named('enclave.execution');
    expect(executions.map(({ attributes }) => attributes['enclave.broker.id'])).toEqual(['b1', 'b2']);
    expect(executions.map(({ attributes }) => attributes['enclave.resumed'])).toEqual([false, true]);
    expect(executions[0]?.attributes['enclave.given_up']).toBe(true);
    const [client] = seen.named('enclave.execute');
    expect(executions.map(({ parentSpanContext }) => parentSpanContext?.spanId)).toEqual(
      Array(2).fill(client?.spanContext().spanId),
    );
    expect(new Set(seen.spans.map((span) => span.spanContext().traceId)).size).toBe(1);
  });

  it('a failure is the status of every span that it passes through, without its message', async () => {
    const parts = await cluster();
    const seen = (tracing = new Tracing());
    const result = await parts.client.run(`throw new Error('${SECRET}')`);
    expect(errorIn(result).message).toContain(SECRET);
    await traceOf(parts, seen, 4);
    for (const { name, status, attributes } of seen.spans)
      expect([name, status, attributes['error.type']]).toEqual([
        name,
        { code: 2, message: 'SCRIPT_ERROR' },
        'SCRIPT_ERROR',
      ]);
  });

  it('no span holds script text, input, arguments, results or messages of errors', async () => {
    const parts = await cluster();
    const seen = (tracing = new Tracing());
    gate.open();
    const scripts = [
      `/* ${SECRET} */ return await callTool('letters:weigh', input)`,
      `await callTool('letters:send', input); throw new Error(input)`,
    ];
    const results: ExecutionResult[] = [];
    for (const script of scripts) results.push(await parts.client.run(script, { input: SECRET }));
    expect(results.map(({ success }) => success)).toEqual([true, false]);
    await parts.until(() => seen.named('enclave.attempt').length === 2, 'both attempts have ended');
    const told = seen.spans.map(({ name, attributes, status, events }) => ({
      name,
      attributes,
      status,
      events,
    }));
    expect(told.length).toBeGreaterThan(8);
    expect(JSON.stringify(told)).not.toContain(SECRET);
  });

  it('what is not sampled is passed on as not sampled, and nothing of it is recorded', async () => {
    const parts = await cluster();
    const seen = (tracing = new Tracing(new AlwaysOffSampler()));
    const flags = await overhear('enclave.test.runtime.r1.cmd');
    expect(valueIn(await parts.client.run('return 1'))).toBe(1);
    await parts.until(() => flags.length > 0, 'the offer was heard');
    expect(flags[0]).toMatch(/^00-[0-9a-f]{32}-[0-9a-f]{16}-00$/);
    expect(seen.spans).toEqual([]);
  });
});

/** The `traceparent` of each message on a subject, '' for none, as any subscriber sees it. Resolves when it listens. */
async function overhear(subject: string): Promise<string[]> {
  const heard: string[] = [];
  wire.subscribe(subject, {
    callback: (_error, message) => void heard.push(message.headers?.get('traceparent') ?? ''),
  });
  await wire.flush();
  return heard;
}

describe('on the wire', () => {
  it('requests carry traceparent while somebody traces, and no header at all while nobody does', async () => {
    const parts = await cluster();
    const heard = await overhear('enclave.test.>');
    expect(valueIn(await parts.client.run('return await callTool("letters:weigh", 1)'))).toBe(1);
    await parts.until(() => heard.length >= 5, 'messages were heard');
    expect(heard.filter((header) => header !== '')).toEqual([]);
    const seen = (tracing = new Tracing());
    const before = heard.length;
    expect(valueIn(await parts.client.run('return await callTool("letters:weigh", 1)'))).toBe(1);
    await traceOf(parts, seen, 7);
    const traced = heard.slice(before).filter((header) => header !== '');
    expect(traced.length).toBe(3); // The run, the offer, the call.
    const [id] = seen.spans.map((span) => span.spanContext().traceId);
    expect(traced.every((header) => header.split('-')[1] === id)).toBe(true);
  });

  it('a broker that is not traced passes the trace of its client on', async () => {
    const parts = await cluster();
    const heard = await overhear('enclave.test.runtime.r1.cmd');
    const link = await NatsLink.open({ servers: nats.url });
    opened.push(link);
    const traceparent = `00-${'ab'.repeat(16)}-${'cd'.repeat(8)}-01`;
    // As a client with a tracer of its own would ask.
    await link
      .connect()
      .request('enclave.test.broker.run', runOf('return 1'), { timeoutMs: 5_000, trace: { traceparent } });
    await parts.until(() => heard.includes(traceparent), 'the offer carries it');
  });

  it('what is no trace is not taken for one', async () => {
    const parts = await cluster();
    const heard = await overhear('enclave.test.runtime.r1.cmd');
    const wrong = headers();
    wrong.set('traceparent', `00-${'0'.repeat(32)}-${'cd'.repeat(8)}-01`);
    await wire.request('enclave.test.broker.run', JSON.stringify(runOf('return 1')), {
      timeout: 5_000,
      headers: wrong,
    });
    await parts.until(() => heard.length > 0, 'the offer was heard');
    expect(heard.filter((header) => header !== '')).toEqual([]);
  });
});

describe('within one process', () => {
  it.each(['session', 'none'] as const)(
    'a tool of the broker’s own process is in the trace, durability %s',
    async (durability) => {
      const system = await createSystem({ tools, pool: { poolSize: 1 } });
      opened.push(system);
      const session = await system.spawnSession({ durability });
      const seen = (tracing = new Tracing());
      const result = await session.execute('return await callTool("letters:weigh", 7)').result;
      expect(valueIn(result)).toBe(7);
      expect(await traceOf(wait, seen, 7)).toBe(`enclave.execute(${EXECUTION})`);
      expect(seen.named('enclave.call')[0]?.attributes['messaging.system']).toBe('memory');
    },
  );
});

function runOf(source: string): object {
  return {
    run: `run-${crypto.randomUUID()}`,
    source,
    input: '',
    limits: {},
    seed: [1, 2, 3, 4],
    isolation: 'context',
    tenant: '',
    tools: undefined,
    labels: {},
    events: false,
    tell: '',
  };
}
