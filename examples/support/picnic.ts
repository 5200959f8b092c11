/**
 * What an agent works with in the examples: four typed tools about parks, and a script as a model writes it.
 */
import { setTimeout as wait } from 'node:timers/promises';
import { z } from 'zod';
// In a service of your own: from 'enclave-actors'.
import { defineTool, type Tool } from '#enclave';

const PARKS = [
  { id: 'estrela', name: 'Jardim da Estrela', rain: 0.1, minutes: 14 },
  { id: 'monsanto', name: 'Parque de Monsanto', rain: 0.2, minutes: 31 },
  { id: 'gulbenkian', name: 'Jardim Gulbenkian', rain: 0.1, minutes: 9 },
  { id: 'belem', name: 'Jardim de Belém', rain: 0.7, minutes: 22 },
];

function parkOf(id: string): (typeof PARKS)[number] {
  const park = PARKS.find((candidate) => candidate.id === id);
  if (park === undefined) throw new Error(`there is no park "${id}"`);
  return park;
}

/** The tools that the agent may use. Inputs and outputs are checked in the host, on every call. */
export const picnicTools: readonly Tool[] = [
  defineTool({
    name: 'parks:near',
    description: 'Parks in a city.',
    effect: 'read',
    input: z.object({ city: z.string() }),
    output: z.array(z.object({ id: z.string(), name: z.string() })),
    handler: async () => {
      await wait(30);
      return PARKS.map(({ id, name }) => ({ id, name }));
    },
  }),
  defineTool({
    name: 'weather:rain',
    description: 'How likely it rains in a park on a day: 0 to 1.',
    effect: 'read',
    input: z.object({ park: z.string(), day: z.enum(['saturday', 'sunday']) }),
    output: z.number().min(0).max(1),
    handler: async ({ park }) => {
      await wait(60);
      return parkOf(park).rain;
    },
  }),
  defineTool({
    name: 'transit:minutes',
    description: 'Minutes by public transport from the office to a park.',
    effect: 'read',
    input: z.object({ park: z.string() }),
    output: z.int(),
    handler: async ({ park }) => {
      await wait(40);
      return parkOf(park).minutes;
    },
  }),
  defineTool({
    name: 'invitations:draft',
    description: 'Drafts an invitation for the team. Nothing is sent.',
    effect: 'idempotent',
    input: z.object({ park: z.string(), day: z.string() }),
    output: z.string(),
    handler: ({ park, day }) => `Picnic on ${day}, ${parkOf(park).name}. Bring a blanket!`,
  }),
];

/** The script: TypeScript, as a model writes it when it is shown the tools' declarations. */
export const PICNIC_SCRIPT = `interface Choice { id: string; name: string; rain: number; minutes: number }

const { city, day }: { city: string; day: string } = input;
const parks = await tools.parks.near({ city });
console.log('%d parks in %s', parks.length, city);

const choices: Choice[] = await Promise.all(
  parks.map(async (park): Promise<Choice> => {
    const [rain, minutes] = await Promise.all([
      tools.weather.rain({ park: park.id, day }),
      tools.transit.minutes({ park: park.id }),
    ]);
    return { ...park, rain, minutes };
  }),
);

const [best, ...others] = choices
  .filter((choice) => choice.rain < 0.5)
  .sort((a, b) => a.minutes - b.minutes);
if (others.length < choices.length - 1) console.warn('left out: too wet');

const invitation = await callTool('invitations:draft', { park: best.id, day });
return { park: best.name, minutes: best.minutes, invitation };
`;

/** What the script returns. */
export interface Picnic {
  readonly park: string;
  readonly minutes: number;
  readonly invitation: string;
}
