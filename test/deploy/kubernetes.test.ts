/**
 * The manifests of docker/kubernetes: valid by the schemas of Kubernetes with no field that it does not know, at one with
 * each other, with nats.conf and with the code. That the checks notice a misspelling is shown by making every one.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, it } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { initIdentities, issue } from '../../src/identities/files.ts';
import { FOLDER, type Manifest, manifests, type Patch, patched, patchesOf, SECRETS } from './cluster.ts';
import { at, misspellings, NATS, PACKAGE, ROOT, read, readVariables, readYaml } from './documents.ts';
import { missing, problemsOf } from './manifests.ts';
import { manifestProblems } from './strict.ts';

const HAS_KUBECTL = spawnSync('kubectl', ['version', '--client']).status === 0;

/** Values of which a neighbour does as well. */
const TUNING =
  /\/(?:(?:period|timeout|stabilizationWindow|terminationGracePeriod)Seconds|failureThreshold|scaleUp\/policies\/\d\/value)$/;

/** Whether a misspelt copy is noticed: at its own place, as most are, or where others refer to it. */
function isNoticed(manifest: Manifest, document: Manifest['document']): boolean {
  const misspelt = { ...manifest, document };
  const all = manifests.map((one) => (one === manifest ? misspelt : one));
  try {
    return problemsOf(all, [misspelt]).length > 0 || problemsOf(all).length > 0;
  } catch {
    return true;
  }
}

describe('the manifests', () => {
  it('are valid, and agree with each other and with the code', () => {
    expect(problemsOf(manifests)).toEqual([]);
  });

  it('are all there, under the names of the guide', () => {
    expect(missing(manifests)).toEqual([]);
    for (const manifest of manifests.filter(({ file }) => !file.endsWith('kustomization.yaml')))
      expect(missing(manifests.filter((one) => one !== manifest))).not.toEqual([]);
  });

  it.each(manifests.map((manifest) => [manifest.file, String(manifest.document.kind), manifest] as const))(
    'of %s, %s, bear no misspelling of any key or value',
    (_file, _kind, manifest) => {
      const all = [...misspellings(manifest.document)];
      expect(all.length).toBeGreaterThan(4);
      const unnoticed = all.filter(({ document }) => !isNoticed(manifest, document));
      const wrong = unnoticed.map(({ where }) => where).filter((where) => !TUNING.test(where));
      expect(wrong).toEqual([]);
    },
  );

  it('say which field nobody knows', () => {
    const deployment = manifests.find(({ document }) => document.kind === 'Deployment')?.document ?? {};
    const copy = structuredClone(deployment) as Record<string, unknown>;
    Object.assign(at(copy, 'spec', 'template', 'spec') as object, { terminationGracePeriod: 90 });
    expect(manifestProblems(copy)).toEqual(['/spec/template/spec/terminationGracePeriod: is not known']);
  });
});

describe('the overlay with identities', () => {
  const folder = `${FOLDER}/overlays/identities`;
  const patches = patchesOf(folder);
  const workloads = patched(manifests, patches).filter(({ document }) => document.kind === 'StatefulSet');

  it('is valid, and agrees with itself and with the code', () => {
    expect(problemsOf(patched(manifests, patches))).toEqual([]);
    expect(workloads.map(({ document }) => at(document, 'metadata', 'name'))).toEqual([
      'enclave-broker',
      'enclave-runtime',
    ]);
  });

  it('bears no misspelling of any key or value', () => {
    const isSeen = (changed: readonly Patch[]): boolean => {
      try {
        return problemsOf(patched(manifests, changed)).length > 0;
      } catch {
        return true;
      }
    };
    expect(isSeen(patches)).toBe(false);
    const all = [...misspellings(patches)].filter(({ where }) => /\/operations\//.test(where));
    expect(all.length).toBeGreaterThan(40);
    const unnoticed = all.filter(({ document }) => !isSeen(document)).map(({ where }) => where);
    expect(unnoticed).toEqual([]);
  });

  it('shows each pod the one file that was issued to it', async () => {
    const directory = mkdtempSync(path.join(tmpdir(), 'enclave-identities-'));
    try {
      await initIdentities(directory, ['default']);
      for (const role of ['broker', 'runtime'] as const) {
        const id = `enclave-${role}-0`;
        const file = await issue(directory, { namespace: 'default', role, id });
        const pod = workloads.find(({ document }) => at(document, 'metadata', 'name') === `enclave-${role}`);
        const mount = at(pod?.document, 'spec', 'template', 'spec', 'containers', 0, 'volumeMounts', 0);
        expect(String(at(mount, 'subPathExpr')).replace('$(ENCLAVE_ID)', id)).toBe(path.basename(file));
      }
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });

  it.skipIf(!HAS_KUBECTL)(
    'is what kubectl makes of it',
    () => {
      const directory = mkdtempSync(path.join(tmpdir(), 'enclave-kustomize-'));
      try {
        cpSync(path.join(ROOT, FOLDER), directory, { recursive: true });
        for (const file of Object.values(SECRETS))
          copyFileSync(path.join(ROOT, `${FOLDER}/base/${file}.example`), path.join(directory, 'base', file));
        const text = execFileSync('kubectl', ['kustomize', path.join(directory, 'overlays/identities')], {
          encoding: 'utf8',
        });
        const made = parseAllDocuments(text).map((each) => each.toJS() as Manifest['document']);
        for (const { document } of patched(manifests, patches).filter(({ document: { spec } }) => spec)) {
          const { kind, metadata } = document;
          const same = made.find(
            (each) => each.kind === kind && at(each, 'metadata', 'name') === at(metadata, 'name'),
          );
          const plain = JSON.parse(
            JSON.stringify(same?.spec)
              .replaceAll(`enclave-actors:${PACKAGE.version}`, 'enclave-actors')
              .replace(/"enclave-redis-\w+"/g, '"enclave-redis"'),
          ) as unknown;
          expect(plain).toEqual(document.spec);
        }
      } finally {
        rmSync(directory, { recursive: true, force: true });
      }
    },
    60_000,
  );
});

describe('the Secrets', () => {
  it('are made from files that are not there until somebody writes them', () => {
    expect(read(`${FOLDER}/base/secrets/.gitignore`)).toBe('*.env\n');
    for (const file of Object.values(SECRETS))
      expect(new Set(Object.values(readVariables(`${FOLDER}/base/${file}.example`)))).toEqual(new Set(['']));
  });

  it('hold the passwords that nats.conf reads, and that of Redis', () => {
    const names = (secret: string): readonly string[] =>
      Object.keys(readVariables(`${FOLDER}/base/${SECRETS[secret]}.example`));
    expect(names('enclave-nats')).toEqual([...NATS.users.values()]);
    expect(names('enclave-redis')).toEqual(['ENCLAVE_REDIS_PASSWORD']);
  });
});

describe('KUBERNETES.md', () => {
  it('tells of every manifest, and of none that is not there', () => {
    const told = [...read('KUBERNETES.md').matchAll(/^\| `([\w/.]+)` \|/gm)].map(([, name = '']) => name);
    const there = manifests.map(({ file }) => file.slice(FOLDER.length + 1));
    const listed = [...new Set(there)].filter(
      (file) => file.startsWith('base/') || file.startsWith('monitoring/'),
    );
    const wanted = [
      ...listed.filter((file) => file !== 'monitoring/kustomization.yaml'),
      'overlays/demo',
      'overlays/identities',
    ];
    expect(told.toSorted()).toEqual(wanted.toSorted());
    const tags = [...read('KUBERNETES.md').matchAll(/enclave-actors:([\w.]+)/g)].map(([, tag]) => tag);
    expect(new Set(tags)).toEqual(new Set([PACKAGE.version]));
  });
});

describe('the alerts', () => {
  it('are a PrometheusRule with the head that KUBERNETES.md gives them', () => {
    const head = /printf '(apiVersion: monitoring[^']*)'/.exec(read('KUBERNETES.md'))?.[1] ?? '';
    const [apiVersion, kind] = [/^apiVersion: (\S+?)\\n/, /\\nkind: (\w+)\\n/].map(
      (each) => each.exec(head)?.[1],
    );
    const rule = {
      apiVersion,
      kind,
      metadata: { name: 'enclave', namespace: 'enclave', labels: { release: 'prometheus' } },
      spec: readYaml('docker/prometheus/rules/enclave.yml'),
    };
    expect(manifestProblems(rule)).toEqual([]);
    expect(head).toContain(
      'metadata: { name: enclave, namespace: enclave, labels: { release: prometheus } }',
    );
    expect(head).toMatch(/\\nspec:\\n$/);
  });
});
