/** What the benches ask a daemon over its socket without `mesh` in between. */
import { request } from 'node:http'
import type { Daemon } from '../scripts/cluster.ts'
import { EntryJson, type Entry } from '../src/wire/tree.ts'

/** Has the daemon fetch all that is in the entry; throws with what it answered instead. */
export async function fetchInto(daemon: Daemon, entry: Entry): Promise<void> {
  await askDaemon(daemon, 'POST', '/api/blobs/fetch', JSON.stringify([EntryJson.parse(entry)]))
}

/** The body of the answer; throws with what it answered instead of 200. */
export function askDaemon(
  daemon: Daemon,
  method: 'GET' | 'POST',
  path: string,
  body = '',
): Promise<string> {
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json' }
    const asked = request({ socketPath: daemon.file.socket, method, path, headers }, (response) => {
      let text = ''
      response.setEncoding('utf8').on('data', (part: string) => (text += part))
      response.once('end', () => {
        if (response.statusCode === 200) resolve(text)
        else reject(new Error(`${daemon.name} answered ${response.statusCode}: ${text}`))
      })
      response.once('error', reject)
    })
    asked.once('error', reject)
    asked.end(body)
  })
}

/** The values of a metric that the daemon serves over HTTP, added up over those of its labels that contain `label`. */
export async function metric(daemon: Daemon, name: string, label = ''): Promise<number> {
  const answer = await fetch(`${daemon.file.http}/metrics`)
  let sum = 0
  for (const line of (await answer.text()).split('\n')) {
    const [, labels = '', value] = new RegExp(`^${name}(\\{.*\\})? (\\S+)$`).exec(line) ?? []
    if (value !== undefined && labels.includes(label)) sum += Number(value)
  }
  return sum
}
