/** The manifests of docker/kubernetes, and how they find each other. */
import { globSync } from 'node:fs';
import { at, type Fields, NATS, PORT, REDIS_PORT, ROOT, readVariables, readYamls } from './documents.ts';

export const FOLDER = 'docker/kubernetes';
export const NAMESPACE = 'enclave';
export const MONITORING = 'monitoring';

export interface Manifest {
  /** From the root of the repository. */
  readonly file: string;
  readonly document: Fields;
}

export const manifests: readonly Manifest[] = globSync(`${FOLDER}/**/*.{yaml,yml,json}`, { cwd: ROOT })
  .toSorted()
  .flatMap((file) => readYamls(file).map((document) => ({ file, document })));

/** What refers to each other. */
export class Cluster {
  readonly all: readonly Fields[];
  constructor(all: readonly Manifest[]) {
    this.all = all.map(({ document }) => document);
  }

  kind(...kinds: readonly string[]): readonly Fields[] {
    return this.all.filter(({ kind }) => kinds.includes(String(kind)));
  }

  named(kind: string, name: unknown): Fields | undefined {
    return this.kind(kind).find((each) => at(each, 'metadata', 'name') === name);
  }

  /** The workload that runs the pods with this label. */
  workload(app: unknown): Fields | undefined {
    return this.kind('Deployment', 'StatefulSet').find(
      (each) => at(each, 'spec', 'template', 'metadata', 'labels', 'app') === app,
    );
  }
}

/** What is wrong with one of them, among the others. */
export type Check = (document: Fields, cluster: Cluster) => readonly string[];

/** The folder, the Secrets that are made, and the variables that the example of each has. */
export const SECRETS: Readonly<Record<string, string>> = {
  'enclave-nats': 'secrets/nats.env',
  'enclave-redis': 'secrets/redis.env',
};

export const variablesOf = (secret: unknown): readonly string[] => {
  const file = SECRETS[String(secret)];
  return file === undefined ? [] : Object.keys(readVariables(`${FOLDER}/base/${file}.example`));
};

/** What the processes behind the names `nats` and `redis` listen on. */
export const PORTS: Readonly<Record<string, readonly [string, number]>> = {
  'enclave-broker': ['http', PORT],
  'enclave-runtime': ['http', PORT],
  nats: ['nats', NATS.port],
  redis: ['redis', REDIS_PORT],
};

/** What the autoscaler asks beside the CPU. */
export const METRIC = 'enclave_active_executions';

const UNITS: Readonly<Record<string, number>> = { '': 1, m: 1e-3, Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30 };

/** A quantity as a number; NaN for what is none. */
export function quantity(text: unknown): number {
  const [, digits, unit = ''] = /^(\d+)(m|Ki|Mi|Gi)?$/.exec(String(text)) ?? [];
  return digits === undefined ? Number.NaN : Number(digits) * (UNITS[unit] ?? Number.NaN);
}
