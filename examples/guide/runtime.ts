/** The scaling guide's runtime. Everything between the two rules is the guide's own text; only the import is another. */
// In a service of your own: from 'enclave-actors'.
import { EnclaveRuntime } from '#enclave';

// ---- runtime/server.ts -----------------------------------------------------------------------------------

const runtime = new EnclaveRuntime({
  // Connect to broker
  brokerUrl: process.env.BROKER_URL,

  // Worker configuration
  workerPool: {
    size: 4,
    maxMemory: 128 * 1024 * 1024,
  },

  // Heartbeat
  heartbeatInterval: 5000,

  // Labels for routing
  labels: {
    region: process.env.REGION,
    tier: 'standard',
  },
});

runtime.connect();

// ----------------------------------------------------------------------------------------------------------

process.once('SIGTERM', () => void runtime.drain());
