#!/usr/bin/env node
/**
 * The command line: what can be said, in one place. What is done is in `commands/`; the environment is read in `env.ts`.
 */
import { readFileSync } from 'node:fs';
import { Command, CommanderError, InvalidArgumentError } from 'commander';
import type { RedisSource } from './backends.ts';
import { DEFAULT_BROKER_PORT } from './broker.ts';
import { rerunFile } from './commands/rerun.ts';
import { runFile } from './commands/run.ts';
import { serveBroker, serveRuntime } from './commands/serve.ts';
import {
  type Cluster,
  closeSession,
  listSessions,
  migrateSession,
  printEvents,
  showSession,
} from './commands/sessions.ts';
import {
  ENVIRONMENT,
  flagFromEnv,
  fromEnv,
  labelsFrom,
  natsFromEnv,
  numberFromEnv,
  wholeNumber,
} from './env.ts';
import { EnclaveError } from './errors.ts';
import { addNamespace, initIdentities, issue, listIssued, revoke } from './identities/files.ts';
import type { Role as IdentityRole } from './identities/permissions.ts';
import type { RuntimePoolOptions } from './options.ts';

const program = new Command('enclave')
  .description('Run code that you did not write: brokers, runtimes, scripts and sessions of a cluster.')
  .version(version())
  .exitOverride()
  .showHelpAfterError('(--help tells more)')
  .addHelpText(
    'after',
    `
A cluster on one machine, in four terminals:
  nats-server
  redis-server --appendonly yes
  enclave broker
  enclave runtime --labels region=here

Then:
  echo 'return 6 * 7' | enclave run -
  enclave sessions ls

Options win over the environment:
${Object.entries(ENVIRONMENT)
  .map(([name, meaning]) => `  ${name.padEnd(32)} ${meaning}`)
  .join('\n')}`,
  );

const whole =
  (key: string) =>
  (text: string): number => {
    try {
      return wholeNumber(text, key);
    } catch (error) {
      throw new InvalidArgumentError(error instanceof Error ? error.message : String(error));
    }
  };

const cluster = (command: Command): Command =>
  command
    .option('--nats <url>', 'NATS servers, separated by commas (ENCLAVE_NATS_URL)')
    .option('--namespace <name>', 'the tenant boundary (ENCLAVE_NAMESPACE)');

const serving = (command: Command): Command =>
  cluster(command)
    .option('--id <name>', 'names this process; no two may share it (ENCLAVE_ID)')
    .option(
      '--port <port>',
      'port of /livez, /readyz, /startupz and /metrics; 0 for any (ENCLAVE_PORT)',
      whole('--port'),
    )
    .option('--host <address>', 'address that the port is opened on (ENCLAVE_HOST)')
    .option('--drain-grace <ms>', 'how long a drain waits (ENCLAVE_DRAIN_GRACE_MS)', whole('--drain-grace'))
    .option('--log-level <level>', 'trace, debug, info, warn, error or silent (ENCLAVE_LOG_LEVEL)');

interface ServingOptions {
  readonly nats?: string;
  readonly namespace?: string;
  readonly id?: string;
  readonly port?: number;
  readonly host?: string;
  readonly drainGrace?: number;
  readonly logLevel?: string;
}

const servingOf = ({ port, host, logLevel }: ServingOptions) => ({
  port: port ?? numberFromEnv('ENCLAVE_PORT'),
  host: host ?? fromEnv('ENCLAVE_HOST'),
  logLevel: logLevel ?? fromEnv('ENCLAVE_LOG_LEVEL') ?? 'info',
});

const memberOf = ({ namespace, id, drainGrace }: ServingOptions) => ({
  namespace: namespace ?? fromEnv('ENCLAVE_NAMESPACE'),
  id: id ?? fromEnv('ENCLAVE_ID'),
  drainGraceMs: drainGrace ?? numberFromEnv('ENCLAVE_DRAIN_GRACE_MS'),
});

// ---- broker ----------------------------------------------------------------------------------------------

interface BrokerCommand extends ServingOptions {
  readonly redis?: string;
  readonly ack?: 'master' | 'replica';
  readonly tools?: string;
  readonly leaseTtl?: number;
  readonly scan?: number;
  readonly sessionTimeout?: number;
  readonly hibernateAfter?: number;
  readonly parkAfter?: number;
  readonly maxSessions?: number;
  readonly maxConcurrentSessions?: number;
  readonly admission?: string;
  readonly routing?: string;
  readonly runtimePool?: string;
  readonly audit?: string;
  readonly redactEvents?: boolean;
  readonly logContent?: boolean;
}

serving(program.command('broker'))
  .description(
    'own sessions and place their scripts on runtimes; SIGTERM hands the sessions over and ends it',
  )
  .option('--redis <url>', 'Redis, or nodes of a Redis Cluster separated by commas (ENCLAVE_REDIS_URL)')
  .option('--ack <level>', 'master or replica: what an acknowledged write has reached (ENCLAVE_REDIS_ACK)')
  .option('--tools <module>', 'module that exports an array of tools made by defineTool')
  .option('--lease-ttl <ms>', 'life of its lease (ENCLAVE_LEASE_TTL_MS)', whole('--lease-ttl'))
  .option(
    '--scan <ms>',
    'how often it looks for sessions without an owner (ENCLAVE_SCAN_MS)',
    whole('--scan'),
  )
  .option(
    '--session-timeout <ms>',
    'sessions expire after this long without activity',
    whole('--session-timeout'),
  )
  .option(
    '--hibernate-after <ms>',
    'a session with nothing to do is put away after this (ENCLAVE_HIBERNATE_AFTER_MS)',
    whole('--hibernate-after'),
  )
  .option(
    '--park-after <ms>',
    'a script that sleeps for longer holds no isolate meanwhile (ENCLAVE_PARK_AFTER_MS)',
    whole('--park-after'),
  )
  .option(
    '--max-sessions <count>',
    'sessions with an actor here (ENCLAVE_MAX_SESSIONS)',
    whole('--max-sessions'),
  )
  .option(
    '--max-concurrent-sessions <count>',
    'sessions with an actor at all brokers together (ENCLAVE_MAX_CONCURRENT_SESSIONS)',
    whole('--max-concurrent-sessions'),
  )
  .option(
    '--admission <json>',
    'JSON of { maxConcurrent, ratePerSecond, burst, maxWaiting, tenants }, or @file: what it takes on for each tenant (ENCLAVE_ADMISSION)',
  )
  .option('--routing <json>', 'JSON of { strategy, rules }, or @file: which runtimes a session may use')
  .option('--runtime-pool <json>', 'JSON of { minSize, maxSize, … }: start and stop runtimes on this machine')
  .option(
    '--audit <file>',
    'add a line for every execution that ends to a file; - for the standard output (ENCLAVE_AUDIT)',
  )
  .option(
    '--redact-events',
    'keep what scripts write, pass to tools and return out of events (ENCLAVE_REDACT_EVENTS)',
  )
  .option(
    '--log-content',
    'show scripts, arguments and results at the level debug; for development (ENCLAVE_LOG_CONTENT)',
  )
  .action(async (options: BrokerCommand) => {
    const { strategy, rules } = jsonOption(options.routing, '--routing') ?? {};
    const pool = jsonOption(options.runtimePool, '--runtime-pool') as RuntimePoolOptions | undefined;
    await serveBroker(
      {
        ...memberOf(options),
        nats: natsFromEnv(options.nats),
        redis: redisFrom(options.redis),
        ack: options.ack ?? (fromEnv('ENCLAVE_REDIS_ACK') as 'master' | undefined),
        keyPrefix: fromEnv('ENCLAVE_REDIS_KEY_PREFIX'),
        toolsFile: options.tools,
        leaseTtlMs: options.leaseTtl ?? numberFromEnv('ENCLAVE_LEASE_TTL_MS'),
        scanIntervalMs: options.scan ?? numberFromEnv('ENCLAVE_SCAN_MS'),
        sessionTimeout: options.sessionTimeout ?? numberFromEnv('ENCLAVE_SESSION_TIMEOUT_MS'),
        hibernateAfterMs: options.hibernateAfter ?? numberFromEnv('ENCLAVE_HIBERNATE_AFTER_MS'),
        parkAfterMs: options.parkAfter ?? numberFromEnv('ENCLAVE_PARK_AFTER_MS'),
        maxSessions: options.maxSessions ?? numberFromEnv('ENCLAVE_MAX_SESSIONS'),
        maxConcurrentSessions:
          options.maxConcurrentSessions ?? numberFromEnv('ENCLAVE_MAX_CONCURRENT_SESSIONS'),
        admission: jsonOption(options.admission ?? fromEnv('ENCLAVE_ADMISSION'), '--admission'),
        routingStrategy: strategy as 'label-match' | undefined,
        routingRules: rules as readonly [] | undefined,
        runtimePool: pool,
        auditFile: options.audit ?? fromEnv('ENCLAVE_AUDIT'),
        redactEvents: options.redactEvents ?? flagFromEnv('ENCLAVE_REDACT_EVENTS'),
        logContent: options.logContent ?? flagFromEnv('ENCLAVE_LOG_CONTENT'),
      },
      { ...servingOf(options), port: servingOf(options).port ?? DEFAULT_BROKER_PORT },
    );
  });

/** One url, or the nodes of a Cluster. */
function redisFrom(given: string | undefined): RedisSource {
  const text = given ?? fromEnv('ENCLAVE_REDIS_URL') ?? 'redis://127.0.0.1:6379';
  const password = fromEnv('ENCLAVE_REDIS_PASSWORD');
  const urls = text.split(',').map((each) => new URL(each.includes('://') ? each : `redis://${each}`));
  for (const url of urls) if (password !== undefined && url.password === '') url.password = password;
  const [first] = urls;
  if (urls.length === 1 || first === undefined) return first?.href ?? text;
  return {
    cluster: urls.map(({ hostname, port }) => ({ host: hostname, port: port === '' ? 6379 : Number(port) })),
    username: first.username === '' ? undefined : decodeURIComponent(first.username),
    password: first.password === '' ? undefined : decodeURIComponent(first.password),
  };
}

function jsonOption(text: string | undefined, key: string): Record<string, unknown> | undefined {
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text.startsWith('@') ? readFileSync(text.slice(1), 'utf8') : text) as Record<
      string,
      unknown
    >;
  } catch (error) {
    throw new EnclaveError('INVALID_ARGUMENT', `${key}: is not JSON`, { key, cause: error });
  }
}

// ---- runtime ---------------------------------------------------------------------------------------------

interface RuntimeCommand extends ServingOptions {
  readonly labels?: string;
  readonly poolSize?: number;
  readonly maxWorkerMemory?: number;
  readonly workerPool?: string;
  readonly heartbeat?: number;
}

serving(program.command('runtime'))
  .description('run scripts for brokers; SIGTERM lets them end, gives the rest back and ends it')
  .option('--labels <labels>', 'key=value,key=value: what routing rules match (ENCLAVE_LABELS)')
  .option('--pool-size <count>', 'worker processes (ENCLAVE_POOL_SIZE)', whole('--pool-size'))
  .option(
    '--max-worker-memory <bytes>',
    'of one worker (ENCLAVE_MAX_WORKER_MEMORY)',
    whole('--max-worker-memory'),
  )
  .option(
    '--worker-pool <json>',
    'JSON of { idleTimeout, queueTimeoutMs, uid, gid, … }, or @file: what else its workers are told (ENCLAVE_WORKER_POOL)',
  )
  .option('--heartbeat <ms>', 'between heartbeats (ENCLAVE_HEARTBEAT_MS)', whole('--heartbeat'))
  .action(async (options: RuntimeCommand) => {
    const labels = options.labels ?? fromEnv('ENCLAVE_LABELS');
    await serveRuntime(
      {
        ...memberOf(options),
        brokerUrl: natsFromEnv(options.nats),
        labels: labels === undefined ? undefined : labelsFrom(labels, '--labels'),
        workerPool: {
          ...jsonOption(options.workerPool ?? fromEnv('ENCLAVE_WORKER_POOL'), '--worker-pool'),
          size: options.poolSize ?? numberFromEnv('ENCLAVE_POOL_SIZE'),
          maxMemory: options.maxWorkerMemory ?? numberFromEnv('ENCLAVE_MAX_WORKER_MEMORY'),
        },
        heartbeatInterval: options.heartbeat ?? numberFromEnv('ENCLAVE_HEARTBEAT_MS'),
      },
      servingOf(options),
    );
  });

// ---- run -------------------------------------------------------------------------------------------------

interface RunOptions {
  readonly nats?: string;
  readonly namespace?: string;
  readonly local?: boolean;
  readonly session?: string;
  readonly input?: string;
  readonly labels?: string;
  readonly timeout?: number;
  readonly json?: boolean;
}

cluster(program.command('run'))
  .description('run a script, print what it returns; what it logs goes to the standard error')
  .argument('<file>', 'JavaScript or TypeScript, the body of an async function; - for the standard input')
  .option('--local', 'in this process instead of the cluster, without tools')
  .option('--session <id>', 'in this session')
  .option('--input <json>', 'what the script sees as `input`')
  .option('--labels <labels>', 'key=value,key=value: what routing rules match')
  .option('--timeout <ms>', 'longest run', whole('--timeout'))
  .option('--json', 'print the whole result as JSON')
  .action(async (file: string, options: RunOptions) => {
    const { local = false, session, input, labels, timeout, json = false } = options;
    if (local && (session !== undefined || options.nats !== undefined))
      throw new EnclaveError('INVALID_ARGUMENT', '--local: goes with neither --session nor --nats');
    process.exitCode = await runFile({
      file,
      input: input === undefined ? undefined : parseInput(input),
      nats: local ? undefined : natsFromEnv(options.nats),
      namespace: options.namespace ?? fromEnv('ENCLAVE_NAMESPACE'),
      session,
      labels: labels === undefined ? undefined : labelsFrom(labels, '--labels'),
      timeoutMs: timeout,
      json,
    });
  });

function parseInput(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new EnclaveError('INVALID_ARGUMENT', '--input: is not JSON', { key: '--input', cause: error });
  }
}

// ---- sessions --------------------------------------------------------------------------------------------

interface SessionsOptions {
  readonly nats?: string;
  readonly namespace?: string;
  readonly json?: boolean;
}

const clusterOf = ({ nats, namespace, json = false }: SessionsOptions): Cluster => ({
  nats: natsFromEnv(nats),
  namespace: namespace ?? fromEnv('ENCLAVE_NAMESPACE'),
  json,
});

const sessions = program.command('sessions').description('look at sessions, move and end them');
const session = (command: Command): Command => cluster(command).option('--json', 'print JSON');

session(sessions.command('ls'))
  .description('every session that is stored, as it was last committed')
  .action((options: SessionsOptions) => listSessions(clusterOf(options)));
session(sessions.command('show'))
  .description('what is known of a session now')
  .argument('<session>')
  .action((id: string, options: SessionsOptions) => showSession(id, clusterOf(options)));
session(sessions.command('events'))
  .description('the events of a session, from the first that is kept')
  .argument('<session>')
  .option('--from <seq>', 'from this number on', whole('--from'))
  .option('--follow', 'go on with those that come')
  .action((id: string, options: SessionsOptions & { readonly from?: number; readonly follow?: boolean }) =>
    printEvents(id, clusterOf(options), { fromSeq: options.from, follow: options.follow ?? false }),
  );
session(sessions.command('migrate'))
  .description('hand a session to another broker; its script runs on')
  .argument('<session>')
  .option('--to <broker>', 'the broker that is to own it. Default: any other')
  .action((id: string, options: SessionsOptions & { readonly to?: string }) =>
    migrateSession(id, options.to, clusterOf(options)),
  );
session(sessions.command('close'))
  .description('end a session: what runs is cancelled, its results stay for a while')
  .argument('<session>')
  .action((id: string, options: SessionsOptions) => closeSession(id, clusterOf(options)));

// ---- identities ------------------------------------------------------------------------------------------

const identities = program
  .command('identities')
  .description('NATS credentials, one for each process: see SECURITY.md');
interface IdentityOptions {
  readonly namespace: string;
  readonly role: IdentityRole;
  readonly id: string;
  readonly expiresIn?: number;
}
const identity = (command: Command): Command =>
  command
    .argument('<dir>', 'where the keys are kept: keep it secret')
    .option('--namespace <name>', 'the tenant', 'default')
    .requiredOption('--role <role>', 'broker, runtime, provider, client or observer')
    .requiredOption('--id <name>', 'names the process');

identities
  .command('init')
  .description('make an operator and a namespace; print the file that the servers include')
  .argument('<dir>')
  .option('--namespace <name>', 'the first tenant', 'default')
  .action(async (dir: string, { namespace }: { readonly namespace: string }) =>
    print(await initIdentities(dir, [namespace])),
  );
identities
  .command('add')
  .description('add a namespace; servers know it after SIGHUP')
  .argument('<dir>')
  .argument('<namespace>')
  .action((dir: string, namespace: string) => addNamespace(dir, namespace));
identity(identities.command('issue'))
  .description('issue credentials; print their file, for ENCLAVE_NATS_CREDS')
  .option('--expires-in <seconds>', 'default: never', whole('--expires-in'))
  .action(async (dir: string, { namespace, role, id, expiresIn }: IdentityOptions) =>
    print(await issue(dir, { namespace, role, id, expiresInSeconds: expiresIn })),
  );
identity(identities.command('revoke'))
  .description('revoke all that was issued to an identity; servers know it after SIGHUP')
  .action(async (dir: string, { namespace, role, id }: IdentityOptions) =>
    print(`revoked: ${await revoke(dir, { namespace, role, id })}`),
  );
identities
  .command('ls')
  .description('who was issued what')
  .argument('<dir>')
  .action(async (dir: string) => {
    for (const one of await listIssued(dir)) print(JSON.stringify(one));
  });

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

// ---- rerun -----------------------------------------------------------------------------------------------

program
  .command('rerun')
  .description('run an execution again from its journal, without calling any tool, and show its trace')
  .argument('<journal>', 'JSON file, as `system.journal()` gives it')
  .action(async (file: string) => {
    process.exitCode = await rerunFile(file);
  });

function version(): string {
  // From the sources the file is one folder up; from dist, two.
  for (const up of ['../package.json', '../../package.json']) {
    try {
      return (JSON.parse(readFileSync(new URL(up, import.meta.url), 'utf8')) as { version: string }).version;
    } catch {
      // The other place.
    }
  }
  return 'unknown';
}

try {
  await program.parseAsync();
} catch (error) {
  // What is wrong with the words was printed; help that was asked for is nothing wrong.
  if (error instanceof CommanderError) process.exit(error.exitCode === 0 ? 0 : 2);
  const shown = error instanceof Error ? error.message : String(error);
  process.stderr.write(`error: ${error instanceof EnclaveError ? `${error.code}: ` : ''}${shown}\n`);
  process.exitCode = 2;
}
