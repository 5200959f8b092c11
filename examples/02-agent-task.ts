/** What a model is shown, the script that it wrote, and what happens when that script runs. */
// In a service of your own: from 'enclave-actors'.
import { Enclave, toolDeclarations } from '#enclave';
import { planPicnic } from './support/agent.ts';
import { PICNIC_SCRIPT, picnicTools } from './support/picnic.ts';
import { block, heading } from './support/print.ts';

await using enclave = new Enclave({ tools: picnicTools });

heading('The tools, as the prompt declares them');
block(toolDeclarations(picnicTools));

heading('The script, as the model wrote it');
block(PICNIC_SCRIPT);

heading('The run, event by event');
await planPicnic(enclave);
