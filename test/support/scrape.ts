/** What a process reports at `/metrics`, as numbers. */
import type { Pod } from './pods.ts';

/** Values by series, as written: `name` or `name{label="value"}`. */
export type Scrape = ReadonlyMap<string, number>;

/** Read the text format. */
export function parseScrape(text: string): Scrape {
  const values = new Map<string, number>();
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('#')) continue;
    const space = line.lastIndexOf(' ');
    values.set(line.slice(0, space), Number(line.slice(space + 1)));
  }
  return values;
}

export async function scrape(pod: Pod): Promise<Scrape> {
  return parseScrape((await pod.get('/metrics')).text);
}

/** Names of what was scraped; a histogram's are its parts'. */
export function namesIn(scraped: Scrape): ReadonlySet<string> {
  return new Set([...scraped.keys()].map((series) => series.replace(/\{.*/, '')));
}
