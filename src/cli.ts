#!/usr/bin/env node
/** The command line's door; what can be said there is in `commands/program.ts`. */
import { obey } from './commands/program.ts';

process.exitCode = await obey(process.argv.slice(2));
