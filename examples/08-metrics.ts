/** What a Prometheus server would read after a little load: the guide's metrics, in a registry of your own. */
import { Registry } from 'prom-client';
// In a service of your own: from 'enclave-actors'.
import { createWorkerPoolAdapter, Enclave } from '#enclave';

const registry = new Registry();
await using enclave = new Enclave({
  adapter: createWorkerPoolAdapter({ poolSize: 1 }),
  registry,
  limits: { cpuMs: 50 },
});

const scripts = Array.from({ length: 200 }, (_, n) => `return ${n} % 7`);
await Promise.all(
  [...scripts, 'throw new Error("on purpose")', 'for (;;) {}'].map((code) => enclave.run(code)),
);

console.log(await registry.metrics());
