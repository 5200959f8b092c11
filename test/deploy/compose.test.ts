/**
 * docker/compose.yaml: valid by the schema of the Compose Specification, and at one with nats.conf, with what it mounts
 * and with the code. That the checks notice a misspelling is shown by making every one.
 */
import { globSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { compositionProblems, grafanaProblems, scrapeProblems } from './composition.ts';
import { type Fields, fieldsAt, misspellings, ROOT, read, readVariables, readYaml } from './documents.ts';

const whole = readYaml('docker/compose.yaml') as Fields;
/** As compose sees it: what is merged elsewhere is no service. */
const compose = Object.fromEntries(Object.entries(whole).filter(([key]) => !key.startsWith('x-')));
const examples = readVariables('docker/.env.example');
const prometheus = readYaml('docker/prometheus/prometheus.yml') as Fields;
const grafana = (kind: string): Fields => {
  const [file = ''] = globSync(`docker/grafana/provisioning/${kind}/*.{yaml,yml}`, { cwd: ROOT });
  return readYaml(file) as Fields;
};

function unnoticed(document: Fields, check: (document: Fields) => readonly string[]): readonly string[] {
  const isWrong = (misspelt: Fields): boolean => {
    try {
      return check(misspelt).length > 0;
    } catch {
      return true;
    }
  };
  const all = [...misspellings(document)];
  expect(all.length).toBeGreaterThan(4);
  return all.filter((misspelt) => !isWrong(misspelt.document)).map(({ where }) => where);
}

describe('compose.yaml', () => {
  it('is valid, with its fragments too, and agrees with the code', () => {
    expect(compositionProblems(whole, examples)).toEqual([]);
    expect(compositionProblems(compose, examples)).toEqual([]);
  });

  it('bears no misspelling of any key or value', () => {
    // Values of which a neighbour does as well.
    const tuning = /\/(?:pids_limit|retries)$/;
    const found = unnoticed(compose, (document) => compositionProblems(document, examples));
    expect(found.filter((where) => !tuning.test(where))).toEqual([]);
  });

  it('has no password that works, and docker/.env is kept out of the repository', () => {
    const [name = ''] = Object.keys(examples);
    expect(compositionProblems(compose, { ...examples, [name]: 'secret' })).toEqual([
      '.env.example: a password that works',
    ]);
    const defaulted = JSON.stringify(compose).replaceAll(':?set it in docker/.env}', ':-secret}');
    expect(compositionProblems(JSON.parse(defaulted) as Fields, examples)).not.toEqual([]);
    expect(read('docker/.gitignore').split('\n')).toContain('.env');
  });

  it('keeps runtimes away from Redis and from outside', () => {
    const networks = fieldsAt(compose, 'services', 'runtime-1').networks as readonly string[];
    expect(networks).not.toContain('store');
    for (const name of networks) expect(fieldsAt(compose, 'networks', name)).toEqual({ internal: true });
  });
});

describe('what compose.yaml mounts', () => {
  it('has Prometheus scrape every pod on its port', () => {
    expect(scrapeProblems(prometheus)).toEqual([]);
    const { scrape_configs, rule_files } = prometheus;
    expect(unnoticed({ scrape_configs, rule_files }, scrapeProblems)).toEqual([]);
  });

  it('has Grafana find Prometheus and the dashboards', () => {
    const [datasources, dashboards] = [grafana('datasources'), grafana('dashboards')];
    expect(grafanaProblems(datasources, dashboards)).toEqual([]);
    const seen = /0\/(?:type|url|options|options\/path)$/;
    const missed = [
      ...unnoticed(datasources, (document) => grafanaProblems(document, dashboards)),
      ...unnoticed(dashboards, (document) => grafanaProblems(datasources, document)),
    ];
    expect(missed.filter((where) => seen.test(where))).toEqual([]);
  });
});
