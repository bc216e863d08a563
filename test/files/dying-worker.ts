/** A thread for files that dies as soon as it has to hash ranges. */
import { parentPort } from 'node:worker_threads'
import type { Order } from '../../src/files/workers/messages.ts'

await import('../../src/files/workers/file-worker.ts')
parentPort?.on('message', (order: Order) => {
  if (order.kind === 'begin' && order.name === 'hash-ranges') process.exit(1)
})
