/**
 * The manifests of docker/kubernetes: valid by the schemas of Kubernetes with no field that it does not know, at one with
 * each other, with nats.conf and with the code. That the checks notice a misspelling is shown by making every one.
 */
import { describe, expect, it } from 'vitest';
import { FOLDER, type Manifest, manifests, SECRETS } from './cluster.ts';
import { at, misspellings, NATS, PACKAGE, read, readVariables, readYaml } from './documents.ts';
import { missing, problemsOf } from './manifests.ts';
import { manifestProblems } from './strict.ts';

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
    const wanted = [...listed.filter((file) => file !== 'monitoring/kustomization.yaml'), 'overlays/demo'];
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
