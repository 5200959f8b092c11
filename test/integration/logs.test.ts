/**
 * Secrets against log lines: a password in every url, and one text in a script, its input, the arguments and results of its
 * calls, its output and its errors. Every role of a cluster runs with a logger that hears everything.
 */
import { Redis } from 'ioredis';
import { pino } from 'pino';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  defineTool,
  Enclave,
  EnclaveBroker,
  EnclaveClient,
  EnclaveRuntime,
  type ExecutionResult,
  provideTools,
} from '../../src/index.ts';
import { type NatsServer, startNats } from '../support/nats.ts';
import { type RedisServer, startRedis } from '../support/redis.ts';
import { refusalOf } from '../support/systems.ts';
import { PATIENCE } from './ends.ts';

const PASSWORD = 'pw-hunter2-0f0f';
const SECRET = 'confidential-d00d';
const ROLES = ['broker', 'runtime', 'provider', 'enclave'] as const;
type Role = (typeof ROLES)[number];

interface Line {
  readonly level: number;
  readonly msg: string;
  readonly [field: string]: unknown;
}
const heard: Record<Role, Line[]> = { broker: [], runtime: [], provider: [], enclave: [] };

/** A logger at pino's lowest level: the default one hears a part of this. */
const loggerOf = (role: Role) =>
  pino({ level: 'trace', base: null }, { write: (line) => void heard[role].push(JSON.parse(line) as Line) });

/** Scripts that leave the secret everywhere, and how they end. */
const SCRIPTS: readonly (readonly [script: string, code: string])[] = [
  [
    `/* ${SECRET} */ console.log(input); console.error(input); return await callTool('svc:echo', input)`,
    'OK',
  ],
  [`throw new Error(input)`, 'SCRIPT_ERROR'],
  [`await callTool('svc:throw', input)`, 'TOOL_ERROR'],
  [`return ${SECRET} +`, 'SYNTAX_ERROR'],
  [`console.log(input); for (;;);`, 'CPU_LIMIT_EXCEEDED'],
  [`await sleep(5_000); return input`, 'EXECUTION_TIMEOUT'],
];
const LIMITS = { cpuMs: 100, timeoutMs: 1_000 };
const tools = [
  defineTool({ name: 'svc:echo', effect: 'read', handler: (args) => args }),
  defineTool({
    name: 'svc:throw',
    handler: (args) => {
      throw new Error(String(args));
    },
  }),
];

let nats: NatsServer;
let redis: RedisServer;
const results: ExecutionResult[] = [];

const codeOf = (result: ExecutionResult): string => (result.success ? 'OK' : result.error.code);

beforeAll(async () => {
  [nats, redis] = await Promise.all([
    startNats({ config: `authorization { user: u, password: "${PASSWORD}" }\n` }),
    startRedis(),
  ]);
  const plain = new Redis(redis.url);
  await plain.config('SET', 'requirepass', PASSWORD);
  plain.disconnect();
  const natsUrl = nats.url.replace('nats://', `nats://u:${PASSWORD}@`);
  const redisUrl = redis.url.replace('redis://', `redis://:${PASSWORD}@`);
  const broker = new EnclaveBroker({ nats: natsUrl, redis: redisUrl, logger: loggerOf('broker') });
  await broker.listen(0, '127.0.0.1');
  const runtime = new EnclaveRuntime({
    brokerUrl: natsUrl,
    workerPool: { size: 1 },
    logger: loggerOf('runtime'),
  });
  await runtime.connect();
  const service = await provideTools(natsUrl, tools, { logger: loggerOf('provider') });
  const client = new EnclaveClient({ serverUrl: natsUrl });
  const session = await client.spawnSession({ limits: LIMITS });
  for (const [script] of SCRIPTS) {
    results.push(await client.run(script, { input: SECRET, limits: LIMITS, tenant: 'acme' }));
    results.push(await session.execute(script, { input: SECRET }).result);
  }
  await client.close();
  await service.drain();
  await runtime.drain();
  await broker.drain();
  const enclave = new Enclave({ tools, logger: loggerOf('enclave'), limits: LIMITS });
  for (const [script] of SCRIPTS) results.push(await enclave.run(script, { input: SECRET }));
  await enclave.run('return input', {
    input: SECRET,
    onEvent: () => {
      throw new Error('the listener broke');
    },
  });
  await enclave.dispose();
}, 120_000);
afterAll(async () => {
  await Promise.all([nats.stop(), redis.stop()]);
});

describe('the secrets', () => {
  it('were where they should not be seen', () => {
    const codes = SCRIPTS.map(([, code]) => code);
    expect(results.map(codeOf)).toEqual([...codes.flatMap((code) => [code, code]), ...codes]);
    expect(JSON.stringify(results)).toContain(SECRET);
  });
});

describe.each(ROLES)('the log of a %s', (role) => {
  it('has lines', async () => {
    await expect.poll(() => heard[role].length, PATIENCE).toBeGreaterThan(0);
  });

  it('holds no password, script, input, argument, result, output or message of a script', () => {
    const text = JSON.stringify(heard[role]);
    expect(text).not.toContain(PASSWORD);
    expect(text).not.toContain(SECRET);
  });

  it('has one fact a line, with a fixed message', () => {
    for (const { msg } of heard[role]) {
      expect(msg).toMatch(/^[\w’,;: -]+$/);
      expect(msg).not.toMatch(/\d/);
    }
  });
});

describe('the log of a broker', () => {
  it('tells of each execution at debug, by session, execution, tenant and code', () => {
    const ended = heard.broker.filter(({ msg }) => msg === 'execution ended');
    expect(ended).toHaveLength(2 * SCRIPTS.length);
    for (const line of ended)
      expect(line).toMatchObject({
        level: 20,
        broker: expect.any(String),
        session: expect.any(String),
        execution: expect.any(String),
        code: expect.any(String),
      });
    expect(new Set(ended.map(({ tenant }) => tenant))).toEqual(new Set(['acme', 'default']));
  });

  it('has nothing of them at info', () => {
    const told = heard.broker.filter(({ level }) => level >= 30);
    expect(told.filter((line) => 'execution' in line || 'session' in line)).toEqual([]);
  });
});

describe('a server that cannot be had', () => {
  it('is told without its password', async () => {
    const wrong = nats.url.replace('nats://', `nats://u:wrong-${PASSWORD}@`);
    const lines: string[] = [];
    const logger = pino({ level: 'trace' }, { write: (line) => void lines.push(line) });
    const runtime = new EnclaveRuntime({ brokerUrl: wrong, logger });
    const refusal = await refusalOf(() => runtime.connect());
    await runtime.close();
    expect(refusal.message).toMatch(/refuses the credentials/);
    expect(`${refusal.message}${lines.join('')}`).not.toContain(PASSWORD);
  });
});
