/** The manifests of docker/kubernetes, and how they find each other. */
import { globSync } from 'node:fs';
import {
  at,
  type Fields,
  listAt,
  NATS,
  PORT,
  REDIS_PORT,
  ROOT,
  readVariables,
  readYaml,
  readYamls,
} from './documents.ts';
import { applied } from './jsonpatch.ts';

export const FOLDER = 'docker/kubernetes';
export const NAMESPACE = 'enclave';
export const MONITORING = 'monitoring';

export interface Manifest {
  /** From the root of the repository. */
  readonly file: string;
  readonly document: Fields;
}

export const manifests: readonly Manifest[] = globSync(`${FOLDER}/**/*.{yaml,yml,json}`, { cwd: ROOT })
  .filter((file) => !file.includes('/patches/'))
  .toSorted()
  .flatMap((file) => readYamls(file).map((document) => ({ file, document })));

/** base as an overlay changes it. Throws where a patch does not fit. */
export function patched(all: readonly Manifest[], patches: readonly Patch[]): readonly Manifest[] {
  let result = all.filter(({ file }) => file.startsWith(`${FOLDER}/base/`));
  for (const { kind, name, operations } of patches) {
    const isTarget = ({ document }: Manifest): boolean =>
      document.kind === kind && at(document, 'metadata', 'name') === name;
    if (result.filter(isTarget).length !== 1) throw new Error(`there is no ${kind} ${name}`);
    result = result.map((manifest) =>
      isTarget(manifest) ? { ...manifest, document: applied(manifest.document, operations) } : manifest,
    );
  }
  return result;
}

/** What a kustomization changes: its target, and the operations of its file. */
export interface Patch {
  readonly kind: string;
  readonly name: string;
  readonly operations: readonly unknown[];
}

export function patchesOf(folder: string): readonly Patch[] {
  return listAt(readYaml(`${folder}/kustomization.yaml`), 'patches').map((patch) => ({
    kind: String(at(patch, 'target', 'kind')),
    name: String(at(patch, 'target', 'name')),
    operations: listAt([readYaml(`${folder}/${String(at(patch, 'path'))}`)], 0),
  }));
}

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
