/** `enclave broker` and `enclave runtime`: processes that serve until they are told to stop. */
import { pathToFileURL } from 'node:url';
import type { Logger } from 'pino';
import { EnclaveBroker, type EnclaveBrokerOptions } from '../broker.ts';
import { EnclaveError } from '../errors.ts';
import { childOf, createLogger, lineFile } from '../ops/logs.ts';
import { createRegistry } from '../ops/metrics.ts';
import { EnclaveRuntime, type EnclaveRuntimeOptions } from '../runtime.ts';
import { isTool, type Tool } from '../tools/define.ts';

/** What both have in common. */
export interface ServeOptions {
  readonly port: number | undefined;
  readonly host: string | undefined;
  readonly logLevel: string;
}

interface Node {
  connect(): Promise<unknown>;
  listen(port: number, host?: string): Promise<number>;
  drain(): Promise<void>;
  close(): Promise<void>;
}

export async function serveBroker(
  options: Omit<EnclaveBrokerOptions, 'tools' | 'audit'> & {
    readonly toolsFile: string | undefined;
    /** `-` is the standard output. */
    readonly auditFile: string | undefined;
  },
  serve: ServeOptions,
): Promise<void> {
  const { toolsFile, auditFile, ...rest } = options;
  const logger = childOf(createLogger(serve.logLevel), { role: 'broker' });
  const tools = toolsFile === undefined ? [] : await loadTools(toolsFile);
  const audit = auditFile === undefined ? undefined : openAudit(auditFile);
  const broker = new EnclaveBroker({ ...rest, tools, audit, logger, registry: createRegistry() });
  const node: Node = {
    connect: () => broker.start(),
    listen: (port, host) => broker.listen(port, host),
    drain: () => broker.drain(),
    close: () => broker.close(),
  };
  await serveNode('broker', node, serve, logger);
}

export async function serveRuntime(options: EnclaveRuntimeOptions, serve: ServeOptions): Promise<void> {
  const logger = childOf(createLogger(serve.logLevel), { role: 'runtime' });
  const runtime = new EnclaveRuntime({ ...options, logger, registry: createRegistry() });
  await serveNode('runtime', runtime, serve, logger);
}

/**
 * Serve until SIGTERM or SIGINT, then drain and let the process end with code 0. A second signal ends it at once, with
 * code 1.
 */
async function serveNode(
  what: string,
  node: Node,
  { port, host }: ServeOptions,
  logger: Logger,
): Promise<void> {
  // A main loop without anything to do would end: a link that reconnects keeps no process up.
  const awake = setInterval(() => undefined, 60_000);
  let stopping = false;
  const stop = (signal: string): void => {
    if (stopping) {
      logger.warn({ signal }, 'ended without waiting any longer');
      process.exit(1);
    }
    stopping = true;
    logger.info({ signal }, `${what} drains`);
    void node
      .drain()
      .then(
        () => logger.info(`${what} has drained`),
        (error: unknown) => {
          logger.error({ err: error }, `${what} could not drain`);
          process.exitCode = 1;
        },
      )
      .finally(() => {
        clearInterval(awake);
        process.exit();
      });
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  try {
    if (port === undefined) await node.connect();
    else await node.listen(port, host).then((bound) => logger.info({ port: bound }, 'endpoints are open'));
  } catch (error) {
    clearInterval(awake);
    await node.close().catch(() => undefined);
    throw taken(error, port) ?? error;
  }
  logger.info(`${what} is ready`);
}

/** What to do about a port that another process has; undefined for any other error. */
function taken(error: unknown, port: number | undefined): EnclaveError | undefined {
  if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') return undefined;
  return new EnclaveError(
    'UNAVAILABLE',
    `Port ${port} of this machine is another process's: name one with --port, or any that is free with --port 0`,
    { cause: error },
  );
}

/** Throws INVALID_ARGUMENT if it cannot be written to: better no broker than one that is thought to be audited. */
function openAudit(file: string): ReturnType<typeof lineFile> {
  try {
    return lineFile(file);
  } catch (error) {
    throw new EnclaveError('INVALID_ARGUMENT', `--audit: ${file} cannot be opened`, { cause: error });
  }
}

/** The tools of a module: its default export, or its export `tools`; an array of what `defineTool` makes. */
async function loadTools(file: string): Promise<readonly Tool[]> {
  const module = (await import(pathToFileURL(file).href)) as {
    readonly default?: unknown;
    readonly tools?: unknown;
  };
  const tools = module.tools ?? module.default;
  if (!Array.isArray(tools) || !tools.every((tool) => isTool(tool)))
    throw new EnclaveError(
      'INVALID_ARGUMENT',
      `--tools: ${file} must export an array of tools made by defineTool, as default or as "tools"`,
    );
  return tools as readonly Tool[];
}
