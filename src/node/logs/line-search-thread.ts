/** The thread of line-search.ts: answers each list of lines with one byte per line, 1 where it matches. */
import { stripVTControlCharacters } from 'node:util'
import { parentPort, workerData } from 'node:worker_threads'
import { z } from 'zod'

const { source, flags } = z.object({ source: z.string(), flags: z.string() }).parse(workerData)
const pattern = new RegExp(source, flags)

parentPort?.postMessage('ready', [])
parentPort?.on('message', (lines: unknown) => {
  if (!Array.isArray(lines)) return
  const hits = new Uint8Array(lines.length)
  for (const [at, bytes] of lines.entries()) {
    if (!(bytes instanceof Uint8Array)) continue
    const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8')
    const shown = text.includes('\x1b') ? stripVTControlCharacters(text) : text
    if (pattern.test(shown.replace(/\r?\n$/, ''))) hits[at] = 1
  }
  parentPort?.postMessage(hits, [])
})
