/**
 * A process that is killed at one step: it does what a store does in its life, and calls of the file system
 * and of the index are counted. Told a number, it kills itself before that call. Says what is certain.
 *
 * Arguments: directory of the store, number of the step. Lines on stdout: `put HEX SIZE`, `gone HEX`,
 * `pinned HEX`, `unpinning HEX`, `unpinned HEX`,
 * `removing`, and `end STEPS` when it was not killed.
 */
import fs from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { Level } from 'level'
import { pino } from 'pino'

const [directory = '', last = ''] = process.argv.slice(2)
const lastStep = Number(last)
const write = fs.writeSync
const say = (line: string): void => void write(1, `${line}\n`)
let steps = 0
function step(): void {
  if (++steps === lastStep) process.kill(process.pid, 'SIGKILL')
}

/** Every call of node:fs that changes something or makes it last. */
const CHANGING = [
  ...['rename', 'unlink', 'rm', 'mkdir', 'write', 'writev', 'fsync', 'fdatasync', 'copyFile'],
  ...['writeFile', 'chmod', 'fchmod', 'utimes', 'futimes', 'link', 'ftruncate'],
]
/** Counts before the call and, of a chained batch, before it is written. */
function countCalls(target: object, key: string): void {
  const original: unknown = Reflect.get(target, key)
  if (typeof original !== 'function') throw new Error(`there is no ${key}`)
  Object.defineProperty(target, key, {
    value(...args: unknown[]): unknown {
      step()
      const result: unknown = Reflect.apply(original, this, args)
      if (key === 'batch' && args.length === 0 && typeof result === 'object' && result !== null)
        countCalls(result, 'write')
      return result
    },
  })
}
for (const name of CHANGING) {
  countCalls(fs, `${name}Sync`)
  if (Reflect.has(fs, name)) countCalls(fs, name)
  if (Reflect.has(fs.promises, name)) countCalls(fs.promises, name)
}
syncBuiltinESMExports()
for (const key of ['batch', 'put']) countCalls(Level.prototype, key)

// Loaded after the calls were replaced.
const { StepClock } = await import('./support.ts')
const { openFsBlobStore } = await import('../../src/store/fs-blob-store.ts')

const clock = new StepClock()
const log = pino({ level: 'silent' })
const seed = Number(process.argv[4])

{
  const store = await openFsBlobStore(
    { clock, log },
    { directory, quotaBytes: 4_000_000, floorBytes: 0 },
  )
  await store.recovered
  store.onGone(({ digests }) => {
    for (const digest of digests) say(`gone ${digest}`)
  })
  const put = async (at: number, sizeBytes: number, isStream: boolean) => {
    const bytes = Buffer.alloc(sizeBytes, `${seed} ${at} `)
    const ref = await store.put(isStream ? pieces(bytes) : bytes)
    say(`put ${ref.digest} ${ref.size}`)
    return ref
  }
  const pinned = await put(1, 1_000, false)
  const entry = { ...pinned, kind: 'file' as const, label: 'kept', atWall: '' }
  store.pins.add(entry)
  say(`pinned ${pinned.digest}`)
  const big = await put(2, 700_000, true)
  await store.pathOf(big.digest, true)
  // A checkpoint, and all that was put grows old.
  clock.step(60_000)
  const output = `${directory}/output`
  fs.writeFileSync(output, Buffer.alloc(100_000, `${seed} file`))
  const moved = await store.putFile(output, { move: true })
  say(`put ${moved.digest} ${moved.size}`)
  clock.step(2 * 60 * 60_000)
  await put(3, 2_000, false)
  say('removing')
  await store.collect({ freeBytes: 1, takesRecent: false })
  await put(2, 700_000, false)
  say(`unpinning ${pinned.digest}`)
  store.pins.remove(pinned.digest)
  say(`unpinned ${pinned.digest}`)
  say('removing')
  await store.delete(pinned.digest)
  await store[Symbol.asyncDispose]()
  say(`end ${steps}`)
}

async function* pieces(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += 200_000) yield bytes.subarray(at, at + 200_000)
}
