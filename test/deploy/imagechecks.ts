/** What has to hold in docker/Dockerfile and .dockerignore, and between them, the package and the code. */

import { atTop, copiesOf, found, letThrough, parseDockerfile } from './dockerfile.ts';
import { argumentProblems, equal, isVariable, must, PACKAGE, PORT, ROUTES, read } from './documents.ts';

/** All that is wrong; nothing if nothing is. Throws on what cannot be read. */
export function imageProblems(dockerfile: string, dockerignore: string): readonly string[] {
  const image = parseDockerfile(dockerfile);
  const shown = letThrough(dockerignore);
  const copies = image.stages.flatMap((stage) => copiesOf(stage).map((copy) => ({ ...copy, stage })));
  const sources = copies.filter(({ from }) => from === undefined).flatMap((copy) => copy.sources);
  const used = new Set(sources.flatMap((source) => found(source, shown)));
  const steps = image.stages.flatMap(({ instructions }) =>
    instructions.filter(({ word }) => word === 'RUN').map(({ text }) => text),
  );
  const { NODE_ENV, ...variables } = image.env;
  const folders = image.stages.map(
    ({ instructions }) => instructions.find(({ word }) => word === 'WORKDIR')?.text,
  );
  const probe = image.healthcheck.at(-1) ?? '';
  return [
    ...equal('Node', image.nodeVersion, PACKAGE.devDependencies.node),
    ...image.stages.flatMap(({ base }) => equal('base', base, 'node:$' + '{NODE_VERSION}-trixie-slim')),
    ...equal(
      'words',
      image.stages.flatMap(({ instructions }) =>
        instructions.filter(({ word }) => !WORDS.includes(word)).map(({ word }) => word),
      ),
      [],
    ),
    ...sources.filter((source) => found(source, shown).length === 0).map((source) => `there is no ${source}`),
    ...equal(
      'shown for nothing',
      shown.flatMap(atTop).filter((name) => !used.has(name)),
      [],
    ),
    ...must(
      shown.every((pattern) => atTop(pattern).length > 0),
      '.dockerignore: shows what is not there',
    ),
    ...copies.flatMap(({ from, sources: [source = ''], target, stage }) => {
      const other = image.stages.find(({ name }) => name === from);
      if (from === undefined)
        return must(
          target === './' || sources.includes(target.replace('./', '')),
          `${target}: is another place`,
        );
      return [
        ...must(
          other !== undefined && image.stages.indexOf(other) < image.stages.indexOf(stage),
          `there is no stage ${from}`,
        ),
        ...equal('what is built', [source, target], [`/build/${target.replace('./', '')}`, target]),
      ];
    }),
    ...equal(
      'what is brought',
      copies.filter(({ from }) => from !== undefined).map(({ from, target }) => [from, target]),
      [
        ['dependencies', './node_modules'],
        ['build', './dist'],
      ],
    ),
    ...equal('folders', folders, ['/build', '/build', '/app']),
    ...equal('steps', steps, STEPS),
    ...equal('NODE_ENV', NODE_ENV, 'production'),
    ...Object.keys(variables).flatMap((name) => must(isVariable(name), `${name} is read by nobody`)),
    ...equal('port', variables.ENCLAVE_PORT, String(PORT)),
    ...equal('exposed', image.exposed, [PORT]),
    ...must(/^[1-9]\d*:[1-9]\d*$/.test(image.user), `it runs as ${image.user}`),
    ...equal('entry point', image.entrypoint, ['/usr/bin/tini', '--', 'enclave']),
    ...argumentProblems(image.command),
    ...equal('command', image.command, ['broker']),
    ...equal('signal', image.final.instructions.find(({ word }) => word === 'STOPSIGNAL')?.text, 'SIGTERM'),
    ...equal('probe', image.healthcheck.slice(0, -1), ['node', '-e']),
    ...must(
      probe ===
        `fetch('http://127.0.0.1:' + process.env.ENCLAVE_PORT + '${ROUTES.live}').then((answer) => process.exit(answer.ok ? 0 : 1), () => process.exit(1))`,
      `it probes with ${probe}`,
    ),
    ...must(
      /^--interval=\d+s --timeout=\d+s --start-period=\d+s --retries=\d+ CMD \[/.test(
        image.final.instructions.find(({ word }) => word === 'HEALTHCHECK')?.text ?? '',
      ),
      'the probe has no times',
    ),
  ];
}

const WORDS = [
  'COPY',
  'RUN',
  'ENV',
  'WORKDIR',
  'USER',
  'EXPOSE',
  'STOPSIGNAL',
  'HEALTHCHECK',
  'ENTRYPOINT',
  'CMD',
  'LABEL',
];

const { bin } = JSON.parse(read('package.json')) as { readonly bin: Readonly<Record<string, string>> };
const program = (bin.enclave ?? '').replace('./', '');

/** Every step; staging.ts carries out those that need no registry. */
const STEPS = [
  'npm ci --omit=dev --no-audit --no-fund',
  'npm ci --no-audit --no-fund',
  `npm run build && chmod 755 ${program}`,
  `apt-get update && apt-get install -y --no-install-recommends tini && rm -rf /var/lib/apt/lists/* && ln -s /app/${program} /usr/local/bin/enclave`,
];
