/**
 * What can be said on the command line, in one place. What is done is in the other modules here; the environment is
 * read in `env.ts`. Making the program does nothing.
 */
import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { DEFAULT_BROKER_PORT } from '../broker.ts';
import { ENVIRONMENT, labelsFrom, natsFromEnv, wholeNumber } from '../env.ts';
import { EnclaveError, invalidArgument } from '../errors.ts';
import { addNamespace, initIdentities, issue, listIssued, revoke } from '../identities/files.ts';
import type { Role as IdentityRole } from '../identities/permissions.ts';
import { rerunFile } from './rerun.ts';
import { runFile } from './run.ts';
import { serveBroker, serveRuntime } from './serve.ts';
import {
  type Cluster,
  closeSession,
  deleteSession,
  listSessions,
  migrateSession,
  printEvents,
  printJournal,
  showSession,
} from './sessions.ts';
import { flag, setting, settle, text } from './settings.ts';
import { jsonOf, objectOf, redisOf, routingOf, wordOf } from './values.ts';

/**
 * Do what the words say. Resolves to the code that the process is to end with once nothing keeps it up: 2 if they are
 * wrong, which is told on the standard error.
 */
export async function obey(words: readonly string[]): Promise<number> {
  let code = 0;
  try {
    await makeProgram((given) => {
      code = given;
    }).parseAsync(words, { from: 'user' });
    return code;
  } catch (error) {
    // What is wrong with the words was printed; help that was asked for is nothing wrong.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    const shown = error instanceof Error ? error.message : String(error);
    process.stderr.write(`error: ${error instanceof EnclaveError ? `${error.code}: ` : ''}${shown}\n`);
    return 2;
  }
}

type Ended = (code: number) => void;

/** The commands with everything that they take. @param ended Told the exit code of a command that has one of its own. */
export function makeProgram(ended: Ended = () => undefined): Command {
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
  addBroker(program);
  addRuntime(program);
  addRun(program, ended);
  addSessions(program);
  addIdentities(program);
  program
    .command('rerun')
    .description('run an execution again from its journal, without calling any tool, and show its trace')
    .argument('<journal>', 'JSON file, as `enclave sessions journal` prints it')
    .action(async (file: string) => ended(await rerunFile(file)));
  return program;
}

// ---- what commands share ---------------------------------------------------------------------------------

const CLUSTER = {
  nats: setting('--nats <url>', 'ENCLAVE_NATS_URL', 'NATS servers, separated by commas', text),
  namespace: setting('--namespace <name>', 'ENCLAVE_NAMESPACE', 'the tenant boundary', text),
};

const SERVING = {
  ...CLUSTER,
  id: setting('--id <name>', 'ENCLAVE_ID', 'names this process; no two may share it', text),
  port: setting(
    '--port <port>',
    'ENCLAVE_PORT',
    'port of /livez, /readyz, /startupz and /metrics; 0 for any',
    wholeNumber,
  ),
  host: setting('--host <address>', 'ENCLAVE_HOST', 'address that the port is opened on', text),
  drainGraceMs: setting(
    '--drain-grace <ms>',
    'ENCLAVE_DRAIN_GRACE_MS',
    'how long a drain waits',
    wholeNumber,
  ),
  logLevel: setting(
    '--log-level <level>',
    'ENCLAVE_LOG_LEVEL',
    'trace, debug, info, warn, error or silent',
    text,
  ),
};

// ---- broker ----------------------------------------------------------------------------------------------

const BROKER = {
  ...SERVING,
  redis: setting(
    '--redis <url>',
    'ENCLAVE_REDIS_URL',
    'Redis; nodes of a Redis Cluster separated by commas; or redis+sentinel://sentinel,sentinel/master',
    redisOf,
  ),
  ack: setting(
    '--ack <level>',
    'ENCLAVE_REDIS_ACK',
    'master or replica: what an acknowledged write has reached',
    wordOf('master', 'replica'),
  ),
  keyPrefix: setting('--key-prefix <text>', 'ENCLAVE_REDIS_KEY_PREFIX', 'begins every key in Redis', text),
  toolsFile: setting(
    '--tools <module>',
    'ENCLAVE_TOOLS',
    'module that exports an array of tools made by defineTool',
    text,
  ),
  leaseTtlMs: setting('--lease-ttl <ms>', 'ENCLAVE_LEASE_TTL_MS', 'life of its lease', wholeNumber),
  scanIntervalMs: setting(
    '--scan <ms>',
    'ENCLAVE_SCAN_MS',
    'how often it looks for sessions without an owner',
    wholeNumber,
  ),
  sessionTimeoutMs: setting(
    '--session-timeout <ms>',
    'ENCLAVE_SESSION_TIMEOUT_MS',
    'sessions expire after this long without activity',
    wholeNumber,
  ),
  hibernateAfterMs: setting(
    '--hibernate-after <ms>',
    'ENCLAVE_HIBERNATE_AFTER_MS',
    'a session with nothing to do is put away after this',
    wholeNumber,
  ),
  parkAfterMs: setting(
    '--park-after <ms>',
    'ENCLAVE_PARK_AFTER_MS',
    'a script that sleeps for longer holds no isolate meanwhile',
    wholeNumber,
  ),
  placementTimeoutMs: setting(
    '--placement-timeout <ms>',
    'ENCLAVE_PLACEMENT_TIMEOUT_MS',
    'how long an execution that never ran waits for a runtime',
    wholeNumber,
  ),
  maxRuns: setting('--max-runs <count>', 'ENCLAVE_MAX_RUNS', 'stateless runs here', wholeNumber),
  maxExecutions: setting(
    '--max-executions <count>',
    'ENCLAVE_MAX_EXECUTIONS',
    'executions of a session that wait or run',
    wholeNumber,
  ),
  keepExecutions: setting(
    '--keep-executions <count>',
    'ENCLAVE_KEEP_EXECUTIONS',
    'ended executions that a session remembers',
    wholeNumber,
  ),
  maxEvents: setting('--max-events <count>', 'ENCLAVE_MAX_EVENTS', 'events kept per session', wholeNumber),
  maxSessions: setting(
    '--max-sessions <count>',
    'ENCLAVE_MAX_SESSIONS',
    'sessions with an actor here',
    wholeNumber,
  ),
  maxConcurrentSessions: setting(
    '--max-concurrent-sessions <count>',
    'ENCLAVE_MAX_CONCURRENT_SESSIONS',
    'sessions with an actor at all brokers together',
    wholeNumber,
  ),
  admission: setting(
    '--admission <json>',
    'ENCLAVE_ADMISSION',
    'JSON of { maxConcurrent, ratePerSecond, burst, maxWaiting, tenants }, or @file: what it takes on for each tenant',
    objectOf,
  ),
  routing: setting(
    '--routing <json>',
    'ENCLAVE_ROUTING',
    'JSON of { strategy, rules }, or @file: which runtimes a session may use',
    routingOf,
  ),
  runtimePool: setting(
    '--runtime-pool <json>',
    'ENCLAVE_RUNTIME_POOL',
    'JSON of { minSize, maxSize, labels, … }, or @file: start and stop runtimes on this machine',
    objectOf,
  ),
  pool: setting(
    '--runtime-workers <json>',
    'ENCLAVE_RUNTIME_WORKERS',
    'JSON of { poolSize, maxWorkerMemory, … }, or @file: the workers of each of those runtimes',
    objectOf,
  ),
  auditFile: setting(
    '--audit <file>',
    'ENCLAVE_AUDIT',
    'add a line for every execution that ends to a file; - for the standard output',
    text,
  ),
  redactEvents: flag(
    '--redact-events',
    'ENCLAVE_REDACT_EVENTS',
    'keep what scripts write, pass to tools and return out of events',
  ),
  logContent: flag(
    '--log-content',
    'ENCLAVE_LOG_CONTENT',
    'show scripts, arguments and results at the level debug; for development',
  ),
};

const DEFAULT_REDIS = 'redis://127.0.0.1:6379';

function addBroker(program: Command): void {
  const command = program
    .command('broker')
    .description(
      'own sessions and place their scripts on runtimes; SIGTERM hands the sessions over and ends it',
    );
  const settings = settle(command, BROKER);
  command.action(async () => {
    const { nats, redis, routing, port = DEFAULT_BROKER_PORT, host, logLevel = 'info', ...rest } = settings();
    await serveBroker(
      { ...rest, ...routing, nats: natsFromEnv(nats), redis: redis ?? redisOf(DEFAULT_REDIS, '--redis') },
      { port, host, logLevel },
    );
  });
}

// ---- runtime ---------------------------------------------------------------------------------------------

const RUNTIME = {
  ...SERVING,
  labels: setting(
    '--labels <labels>',
    'ENCLAVE_LABELS',
    'key=value,key=value: what routing rules match',
    labelsFrom,
  ),
  poolSize: setting('--pool-size <count>', 'ENCLAVE_POOL_SIZE', 'worker processes', wholeNumber),
  maxMemory: setting(
    '--max-worker-memory <bytes>',
    'ENCLAVE_MAX_WORKER_MEMORY',
    'of one worker',
    wholeNumber,
  ),
  uid: setting('--uid <id>', 'ENCLAVE_UID', 'user that workers run as; needs root', wholeNumber),
  gid: setting('--gid <id>', 'ENCLAVE_GID', 'group that workers run as; needs root', wholeNumber),
  workerPool: setting(
    '--worker-pool <json>',
    'ENCLAVE_WORKER_POOL',
    'JSON of { idleTimeout, queueTimeoutMs, … }, or @file: what else its workers are told',
    objectOf,
  ),
  heartbeatInterval: setting('--heartbeat <ms>', 'ENCLAVE_HEARTBEAT_MS', 'between heartbeats', wholeNumber),
};

function addRuntime(program: Command): void {
  const command = program
    .command('runtime')
    .description('run scripts for brokers; SIGTERM lets them end, gives the rest back and ends it');
  const settings = settle(command, RUNTIME);
  command.action(async () => {
    const { nats, port, host, logLevel = 'info', workerPool, ...others } = settings();
    const { poolSize: size, maxMemory, uid, gid, ...rest } = others;
    const said = Object.entries({ size, maxMemory, uid, gid }).filter(([, value]) => value !== undefined);
    await serveRuntime(
      { ...rest, brokerUrl: natsFromEnv(nats), workerPool: { ...workerPool, ...Object.fromEntries(said) } },
      { port, host, logLevel },
    );
  });
}

// ---- run -------------------------------------------------------------------------------------------------

interface RunOptions {
  readonly local?: boolean;
  readonly session?: string;
  readonly input?: string;
  readonly labels?: string;
  readonly timeout?: string;
  readonly json?: boolean;
}

function addRun(program: Command, ended: Ended): void {
  const command = program
    .command('run')
    .description('run a script, print what it returns; what it logs goes to the standard error')
    .argument('<file>', 'JavaScript or TypeScript, the body of an async function; - for the standard input');
  const cluster = settle(command, CLUSTER);
  command
    .option('--local', 'in this process instead of the cluster, without tools')
    .option('--session <id>', 'in this session')
    .option('--input <json>', 'JSON, or @file: what the script sees as `input`')
    .option('--labels <labels>', 'key=value,key=value: what routing rules match')
    .option('--timeout <ms>', 'longest run')
    .option('--json', 'print the whole result as JSON')
    .action(async (file: string, options: RunOptions) => {
      const { local = false, session, input, labels, timeout, json = false } = options;
      if (local)
        for (const key of ['session', 'nats', 'namespace', 'labels'])
          if (command.getOptionValue(key) !== undefined)
            throw invalidArgument(`--${key}`, 'is for the cluster, and goes with no --local');
      if (session !== undefined && labels !== undefined)
        throw invalidArgument('--labels', 'are those of the session, and go with no --session');
      const { nats, namespace } = cluster();
      ended(
        await runFile({
          file,
          input: input === undefined ? undefined : jsonOf(input, '--input'),
          nats: local ? undefined : natsFromEnv(nats),
          namespace,
          session,
          labels: labels === undefined ? undefined : labelsFrom(labels, '--labels'),
          timeoutMs: timeout === undefined ? undefined : wholeNumber(timeout, '--timeout'),
          json,
        }),
      );
    });
}

// ---- sessions --------------------------------------------------------------------------------------------

function addSessions(program: Command): void {
  const sessions = program.command('sessions').description('look at sessions, move and end them');
  /** One more command, and what reads where it is to go. */
  const add = (name: string, about: string): readonly [Command, () => Cluster] => {
    const command = sessions.command(name).description(about);
    const cluster = settle(command, CLUSTER);
    command.option('--json', 'print JSON');
    return [
      command,
      () => {
        const { nats, namespace } = cluster();
        return { nats: natsFromEnv(nats), namespace, json: command.getOptionValue('json') === true };
      },
    ];
  };

  const [ls, ofLs] = add('ls', 'every session that is stored, as it was last committed');
  ls.action(() => listSessions(ofLs()));

  const [show, ofShow] = add('show', 'what is known of a session now');
  show.argument('<session>').action((id: string) => showSession(id, ofShow()));

  const [events, ofEvents] = add('events', 'the events of a session, from the first that is kept');
  events
    .argument('<session>')
    .option('--from <seq>', 'from this number on')
    .option('--follow', 'go on with those that come')
    .action((id: string, { from, follow = false }: { readonly from?: string; readonly follow?: boolean }) =>
      printEvents(id, ofEvents(), {
        fromSeq: from === undefined ? 'first' : wholeNumber(from, '--from'),
        follow,
      }),
    );

  const [migrate, ofMigrate] = add('migrate', 'hand a session to another broker; its script runs on');
  migrate
    .argument('<session>')
    .option('--to <broker>', 'the broker that is to own it. Default: any other')
    .action((id: string, { to }: { readonly to?: string }) => migrateSession(id, to, ofMigrate()));

  const [close, ofClose] = add(
    'close',
    'end a session: what runs is cancelled, its results stay for a while',
  );
  close.argument('<session>').action((id: string) => closeSession(id, ofClose()));

  const [remove, ofRemove] = add('delete', 'end a session, and forget everything of it');
  remove.argument('<session>').action((id: string) => deleteSession(id, ofRemove()));

  const [journal, ofJournal] = add(
    'journal',
    'the journal of an execution, as JSON: what `enclave rerun` runs again',
  );
  journal
    .argument('<session>')
    .argument('<execution>', 'as `enclave sessions show` names it')
    .action((id: string, execution: string) => printJournal(id, execution, ofJournal()));
}

// ---- identities ------------------------------------------------------------------------------------------

interface IdentityOptions {
  readonly namespace: string;
  readonly role: IdentityRole;
  readonly id: string;
  readonly expiresIn?: string;
}

function addIdentities(program: Command): void {
  const identities = program
    .command('identities')
    .description('NATS credentials, one for each process: see SECURITY.md');
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
    .option('--expires-in <seconds>', 'default: never')
    .action(async (dir: string, { namespace, role, id, expiresIn }: IdentityOptions) => {
      const expiresInSeconds = expiresIn === undefined ? undefined : wholeNumber(expiresIn, '--expires-in');
      print(await issue(dir, { namespace, role, id, expiresInSeconds }));
    });
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
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

function version(): string {
  // From the sources the file is two folders up; from dist, three.
  for (const up of ['../../package.json', '../../../package.json']) {
    try {
      return (JSON.parse(readFileSync(new URL(up, import.meta.url), 'utf8')) as { version: string }).version;
    } catch {
      // The other place.
    }
  }
  return 'unknown';
}
