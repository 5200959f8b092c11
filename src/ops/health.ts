/**
 * The endpoints that an operator's tools ask: whether the process lives, whether it may be given work, and its
 * metrics. Nothing else is served here.
 *
 * ```
 * GET /livez      200 while the main loop turns
 * GET /startupz   200 once it has started
 * GET /readyz     200 if every check passes, else 503; the body names each check
 * GET /metrics    Prometheus text
 * ```
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';

/** The paths, by what they tell. */
export const ROUTES = {
  live: '/livez',
  startup: '/startupz',
  ready: '/readyz',
  metrics: '/metrics',
} as const;

/** What is well, by name. */
export type Checks = Readonly<Record<string, boolean>>;

export interface HealthOptions {
  /** 0 for any that is free. */
  readonly port: number;
  /** Default: every address of the machine. */
  readonly host?: string | undefined;
  readonly started: () => boolean;
  /** Asked at each request; ready if all are true. */
  readonly checks: () => Checks;
  /** Content type and text; undefined: there are no metrics (404). */
  readonly metrics: (() => Promise<{ readonly contentType: string; readonly text: string }>) | undefined;
}

export interface HealthServer {
  readonly port: number;
  close(): Promise<void>;
}

/** Serve the endpoints. Rejects with the system's error if the port cannot be had. */
export async function serveHealth(options: HealthOptions): Promise<HealthServer> {
  const server = createServer((request, response) => {
    void answer(options, request, response).catch((error: unknown) => {
      if (!response.headersSent) response.writeHead(500);
      response.end(error instanceof Error ? error.message : 'error');
    });
  });
  // A probe that does not finish its request must not hold a socket for ever.
  server.requestTimeout = 10_000;
  server.headersTimeout = 10_000;
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.port, options.host, () => {
      server.off('error', reject);
      resolve();
    });
  });
  return { port: portOf(server), close: () => closed(server) };
}

async function answer(
  { started, checks, metrics }: HealthOptions,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  if (request.method !== 'GET' && request.method !== 'HEAD')
    return send(response, 405, { error: 'GET only' });
  const [path] = (request.url ?? '/').split('?');
  switch (path) {
    case ROUTES.live:
      return send(response, 200, { live: true });
    case ROUTES.startup:
      return send(response, started() ? 200 : 503, { started: started() });
    case ROUTES.ready: {
      const found = checks();
      const ready = started() && Object.values(found).every((well) => well);
      return send(response, ready ? 200 : 503, { ready, checks: found });
    }
    case ROUTES.metrics: {
      if (metrics === undefined) return send(response, 404, { error: 'no registry was given' });
      const { contentType, text } = await metrics();
      response.writeHead(200, { 'content-type': contentType });
      response.end(text);
      return;
    }
    default:
      return send(response, 404, { error: `there are ${Object.values(ROUTES).join(', ')}` });
  }
}

function send(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(`${JSON.stringify(body)}\n`);
}

function portOf(server: Server): number {
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : 0;
}

function closed(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}
