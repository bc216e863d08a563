/**
 * How fast one processor of this machine computes, relative to the reference machine: a fixed mix of
 * integer, floating point and memory work, counted for a tenth of a second in a thread of its own.
 *
 * It is a first guess: whoever grants refines it by how long real jobs take here.
 */
import { extname, join } from 'node:path'
import { Worker } from 'node:worker_threads'

/** Pieces of work in one window at speed 1. Arbitrary, but speeds of nodes of all versions are compared: it stays. */
const REFERENCE_PIECES = 500

/** Resolves to a positive number; rejects when the thread cannot be started. */
export async function measureSpeed(): Promise<number> {
  const program = join(import.meta.dirname, `speed-thread${extname(import.meta.filename)}`)
  const worker = new Worker(program, { name: 'speed', execArgv: [] })
  worker.unref()
  const pieces = await new Promise<number>((resolve, reject) => {
    worker.once('message', (count: unknown) => {
      if (typeof count === 'number' && count > 0) resolve(count)
    })
    worker.once('error', reject)
    worker.once('exit', () => reject(new Error('the thread that measures the speed told nothing')))
  })
  return pieces / REFERENCE_PIECES
}
