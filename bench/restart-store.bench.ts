/** How soon a store of a million blobs is ready again: after an orderly stop, a kill, and without its index. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { systemClock } from '../src/base/clock.ts'
import { nextTurn } from '../src/files/map-limited.ts'
import { openFsBlobStore, type FsBlobStore } from '../src/store/fs-blob-store.ts'
import { sha256 } from '../src/wire/digest.ts'
import { figure, timed, type Subject } from './subject.ts'

const BLOBS = 1_000_000
const BLOBS_PER_TURN = 1_000
/** Put by the process that is killed. */
const UNSYNCED = 1_000

const open = (directory: string): Promise<FsBlobStore> =>
  openFsBlobStore({ clock: systemClock(), log: pino({ level: 'silent' }) }, { directory })

/** Opens the store, puts some blobs, and dies. */
const KILLED = `
import { systemClock } from ${JSON.stringify(import.meta.resolve('../src/base/clock.ts'))}
import { openFsBlobStore } from ${JSON.stringify(import.meta.resolve('../src/store/fs-blob-store.ts'))}
import { pino } from ${JSON.stringify(import.meta.resolve('pino'))}
const store = await openFsBlobStore(
  { clock: systemClock(), log: pino({ level: 'silent' }) },
  { directory: process.argv[1] },
)
for (let at = 0; at < ${UNSYNCED}; at++) await store.put(Buffer.from('killed ' + at))
process.kill(process.pid, 'SIGKILL')
`

/** Blobs as they are on the disk, without a store. */
async function makeFiles(directory: string, signal: AbortSignal): Promise<void> {
  for (let prefix = 0; prefix < 256; prefix++)
    mkdirSync(join(directory, 'blob', prefix.toString(16).padStart(2, '0')), { recursive: true })
  for (let at = 0; at < BLOBS; at++) {
    const bytes = Buffer.from(`blob ${at}`)
    const digest = sha256(bytes)
    writeFileSync(join(directory, 'blob', digest.slice(0, 2), digest), bytes, { mode: 0o444 })
    if (at % BLOBS_PER_TURN === 0) {
      await nextTurn()
      signal.throwIfAborted()
    }
  }
  // So that the files are believed, as those of a store that was in order.
  const checkpoint = JSON.stringify({ atWallMs: Date.now(), clean: true })
  writeFileSync(join(directory, 'checkpoint.json'), checkpoint)
}

/** Opening, then what an unclean stop left, then a look at all blobs as garbage collection takes it. */
async function restart(
  directory: string,
): Promise<{ readyMs: number; recoveredMs: number; usageMs: number }> {
  let store: FsBlobStore | undefined
  const readyMs = await timed(async () => {
    store = await open(directory)
  })
  const recoveredMs = await timed(async () => store?.recovered)
  const usageMs = await timed(async () => store?.usage())
  const count = store?.stats().count
  if (count !== BLOBS && count !== BLOBS + UNSYNCED) throw new Error(`there are ${count} blobs`)
  await store?.[Symbol.asyncDispose]()
  return { readyMs, recoveredMs, usageMs }
}

export const subject: Subject = {
  name: 'restart-store',
  async run({ signal, log }) {
    const directory = await mkdtemp(join(tmpdir(), 'mesh-bench-'))
    try {
      log(`making ${BLOBS} blobs, which takes a minute`)
      await makeFiles(directory, signal)
      const rebuilt = await restart(directory)
      log(`index rebuilt in ${rebuilt.readyMs.toFixed()} ms`)
      const clean = await restart(directory)
      log(`ready in ${clean.readyMs.toFixed()} ms`)
      const child = spawn(process.execPath, ['--input-type=module', '-e', KILLED, directory], {
        stdio: ['ignore', 'ignore', 'inherit'],
      })
      await once(child, 'exit')
      if (child.signalCode !== 'SIGKILL') throw new Error(`ended with ${child.exitCode}`)
      const killed = await restart(directory)
      return {
        'ready after an orderly stop': figure(clean.readyMs / 1000, 's', 'goal 3'),
        'ready after a kill': figure(killed.readyMs / 1000, 's', 'goal 3'),
        'in order after a kill': figure((killed.readyMs + killed.recoveredMs) / 1000, 's'),
        'a look at all blobs': figure(clean.usageMs / 1000, 's'),
        'ready without an index': figure(rebuilt.readyMs / 1000, 's'),
      }
    } finally {
      // Many times as fast as doing it here.
      await once(spawn('rm', ['-rf', directory], { stdio: 'inherit' }), 'exit')
    }
  },
}
