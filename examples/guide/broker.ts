/**
 * The scaling guide's broker. Everything between the two rules is the guide's own text; only the imports are others,
 * the urls are those of this machine, and /metrics has a registry.
 */
import { Redis } from 'ioredis';
import { Registry } from 'prom-client';
// In a service of your own: from 'enclave-actors'.
import { createToolRegistry, defineTool, EnclaveBroker } from '#enclave';

/** The guide leaves this registry to its reader. */
const toolRegistry = createToolRegistry({
  tools: [
    defineTool({ name: 'users:get', effect: 'read', handler: (args) => ({ name: 'Ada', asked: args }) }),
  ],
});

// ---- broker/server.ts ------------------------------------------------------------------------------------

const redis = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379');

const broker = new EnclaveBroker({
  nats: process.env.BROKER_URL,
  registry: new Registry(),

  // Redis for session state
  redis,

  // Tool registry
  tools: toolRegistry,

  // Session limits
  maxConcurrentSessions: 1000,
  sessionTimeout: 300000, // 5 minutes

  // Runtime pool management
  runtimePool: {
    minSize: 2,
    maxSize: 10,
    scaleUpThreshold: 0.8, // Scale up at 80% utilization
    scaleDownThreshold: 0.3, // Scale down at 30% utilization
    scaleInterval: 30000, // Check every 30 seconds
  },
});

broker.listen(Number(process.env.PORT ?? 3001));

// ----------------------------------------------------------------------------------------------------------

process.once('SIGTERM', () => void broker.drain().then(() => redis.quit()));
