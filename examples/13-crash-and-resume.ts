/**
 * A worker is killed after its script has charged a card. The script goes on in the other runtime from its journal:
 * it knows the random number that it drew, and the card is not charged again.
 */
// In a service of your own: from 'enclave-actors'.
import { createSystem } from '#enclave';
import { heading } from './support/print.ts';
import { cardTool, NO_TICKETS, resumeElsewhere } from './support/resume.ts';

await using system = await createSystem({ runtimes: 2, tools: [cardTool] });
const session = await system.spawnSession({ state: NO_TICKETS });

heading("A session's worker is killed under its script");
await resumeElsewhere(system, session);
