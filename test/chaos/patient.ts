/**
 * The command line of a broker that waits for an answer of Redis however long it is paused meanwhile: so that the answer
 * to a write that comes when others own its session is seen, and not given up before.
 */
import { parseArgs } from 'node:util';
import { EnclaveBroker, type Tool } from '../../src/index.ts';
import { createRegistry } from '../../src/ops/metrics.ts';

const { values } = parseArgs({
  allowPositionals: true,
  options: {
    nats: { type: 'string', default: '' },
    redis: { type: 'string', default: '' },
    id: { type: 'string', default: '' },
    host: { type: 'string', default: '' },
    port: { type: 'string', default: '' },
    tools: { type: 'string', default: '' },
    'lease-ttl': { type: 'string', default: '' },
    scan: { type: 'string', default: '' },
  },
});
const { hostname, port } = new URL(values.redis);
const { default: tools } = (await import(values.tools)) as { readonly default: readonly Tool[] };
const broker = new EnclaveBroker({
  id: values.id,
  nats: values.nats,
  redis: { host: hostname, port: Number(port), commandTimeout: 60_000 },
  tools,
  leaseTtlMs: Number(values['lease-ttl']),
  scanIntervalMs: Number(values.scan),
  registry: createRegistry(),
});
await broker.listen(Number(values.port), values.host);
// Its links alone keep no process up.
setInterval(() => undefined, 60_000);
