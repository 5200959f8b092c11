/** Tools of a service that is no broker: a tool provider of its own, over NATS. */
import type { Logger } from 'pino';
import type { Registry } from 'prom-client';
import { checkKeys, checkObservers } from './arguments.ts';
import { type NatsConnectionOptions, NatsLink } from './bus/nats.ts';
import { systemClock } from './clock.ts';
import { invalidArgument } from './errors.ts';
import { memberOf } from './member.ts';
import { alsoTelling, type NatsSource, natsSource } from './natssource.ts';
import { childOf, logLink, logUntaken } from './ops/logs.ts';
import { meterLosses, meterProcess } from './ops/metrics.ts';
import { ID, subjectsOf } from './subjects.ts';
import type { Tool } from './tools/define.ts';
import { ToolProvider } from './tools/provider.ts';
import { createToolRegistry, type ToolRegistry } from './tools/registry.ts';

/** The NATS servers, or a connection of the service's own, which stays open when the service closes. */
export type ToolServiceNats = NatsSource | NatsConnectionOptions['connection'];

/** Who a provider is to the brokers, and how it ends. */
export interface ProvideToolsOptions {
  /** The brokers' namespace. Default `'default'`. */
  readonly namespace?: string | undefined;
  /** Names this provider, `[A-Za-z0-9_-]{1,64}`: no other that lives may have it. Default: a new name. */
  readonly id?: string | undefined;
  /** A pino logger. Default: silent. Arguments and results are never logged. */
  readonly logger?: Logger | undefined;
  /** A prom-client registry that gets the `enclave_*` metrics of this process. Default: none. */
  readonly registry?: Registry | undefined;
  /** What `drain` waits for handlers, in ms. Default 30,000; 0 to 3,600,000. */
  readonly drainMs?: number | undefined;
}

/** Tools that are provided until this is closed. */
export interface ToolService extends AsyncDisposable {
  readonly id: string;
  /** Calls whose handlers run. */
  readonly running: number;
  /** True while the NATS server can be reached. Calls that run go on without it, and their ends are told when it is back. */
  readonly connected: boolean;
  /**
   * Take no more calls, wait until those that run have ended and their ends were heard, for `graceMs` at most (default:
   * `drainMs`), and close. Brokers give new calls to other providers from the first moment.
   */
  drain(graceMs?: number): Promise<void>;
  /**
   * Close at once. Handlers that run are aborted, and what became of their calls is found out by the effect of their
   * tools: `read` and `idempotent` ones are made again elsewhere. Safe to call again.
   */
  close(): Promise<void>;
}

const KEYS = ['namespace', 'id', 'logger', 'registry', 'drainMs'];
const DRAIN_MS = 30_000;
const MAX_DRAIN_MS = 3_600_000;

/**
 * Provide tools to the scripts of a namespace. Any number of services may provide the same tools: each call goes to
 * one of them. Resolves when calls can come. A tool of the same name must have the same effect everywhere; where it
 * does not, brokers take the strictest.
 *
 * Rejects with an EnclaveError: INVALID_ARGUMENT naming what is wrong, or UNAVAILABLE if no server can be reached.
 */
export async function provideTools(
  nats: ToolServiceNats,
  tools: readonly Tool[] | ToolRegistry,
  options: ProvideToolsOptions = {},
): Promise<ToolService> {
  checkKeys(options, KEYS, 'options');
  const { logger, registry: metrics } = options;
  checkObservers({ logger, registry: metrics }, 'options');
  if (options.namespace !== undefined && !isId(options.namespace))
    throw invalidArgument('options.namespace', ID_RULE);
  if (options.id !== undefined && !isId(options.id)) throw invalidArgument('options.id', ID_RULE);
  const drainMs = graceOf(options.drainMs ?? DRAIN_MS, 'options.drainMs');
  const registry = registryOf(tools);
  const member = await memberOf({
    nats: isConnection(nats) ? { connection: nats } : natsSource(nats, 'nats'),
    role: 'provider',
    namespace: options.namespace,
    id: options.id,
  });
  const { namespace, id } = member;
  const log = logger === undefined ? undefined : childOf(logger, { provider: id });
  const logDropped = logUntaken(log);
  const losses = metrics && meterLosses(metrics);
  const link = await NatsLink.open({
    ...member.nats,
    onError: alsoTelling(member.nats, (error, subject) => {
      losses?.dropped('unreadable');
      logDropped(error, subject);
    }),
  });
  link.onStatus(logLink(log));
  let draining = false;
  const stopMetrics =
    metrics && meterProcess(metrics, { bus: () => link.connected, draining: () => draining });
  const bus = link.connect(id);
  const provider = new ToolProvider({
    id,
    bus,
    clock: systemClock,
    subjects: subjectsOf(namespace),
    registry,
    losses,
  });
  let closing: Promise<void> | undefined;
  const close = (): Promise<void> => {
    closing ??= (async () => {
      stopMetrics?.();
      provider.close();
      await bus.close();
      await link.close();
      log?.info('tools are provided no more');
    })();
    return closing;
  };
  try {
    await provider.start();
  } catch (error) {
    await close();
    throw error;
  }
  log?.info({ tools: registry.names().length }, 'tools are provided');
  return {
    id,
    get running() {
      return provider.running;
    },
    get connected() {
      return link.connected;
    },
    drain: async (graceMs = drainMs) => {
      const waitMs = graceOf(graceMs, 'graceMs');
      draining = true;
      await provider.drain(waitMs);
      await close();
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}

const ID_RULE = 'must be 1 to 64 of A-Z, a-z, 0-9, _ and -';

function isId(value: unknown): boolean {
  return typeof value === 'string' && ID.test(value);
}

function graceOf(value: number, key: string): number {
  if (!Number.isInteger(value) || value < 0 || value > MAX_DRAIN_MS)
    throw invalidArgument(key, `must be a whole number from 0 to ${MAX_DRAIN_MS} ms`);
  return value;
}

/** Only tools that were defined: what a `toolHandler` serves has no names that could be advertised. */
function registryOf(tools: readonly Tool[] | ToolRegistry): ToolRegistry {
  if (Array.isArray(tools)) return createToolRegistry({ tools: tools as readonly Tool[] });
  const registry = tools as Partial<ToolRegistry> | undefined;
  if (typeof registry?.names !== 'function' || typeof registry.resolve !== 'function')
    throw invalidArgument('tools', 'must be an array of tools made by defineTool');
  return registry as ToolRegistry;
}

function isConnection(nats: ToolServiceNats): nats is NatsConnectionOptions['connection'] {
  return typeof (nats as { readonly publish?: unknown } | undefined)?.publish === 'function';
}
