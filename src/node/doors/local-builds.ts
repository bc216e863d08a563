/** Builds beside the mesh on this machine: each is told its share of the processors for as long as it is connected. */
import type { ServerResponse } from 'node:http'
import type { FastifyInstance } from 'fastify'
import { parseWith } from '../../wire/cbor.ts'
import { LOCAL_BUILDS_PATH, LocalBuild, type LocalShare } from '../../wire/local-build.ts'
import type { LocalTakers } from '../policy/local-takers.ts'

/** `takers` is undefined on a node that runs no builds: nobody else wants its processors. */
export function addLocalBuildRoutes(
  app: FastifyInstance,
  takers: () => LocalTakers | undefined,
): void {
  app.post(LOCAL_BUILDS_PATH, (request, reply) => {
    const { cpus, pid } = parseWith(LocalBuild, request.body, 'local build')
    const share = new ShareStream(reply.raw)
    const taking = takers()?.take({ cpus, pid, onShare: (now) => share.tell(now) })
    reply.hijack()
    reply.raw.once('close', () => taking?.[Symbol.dispose]())
    reply.raw.writeHead(200, {
      'content-type': 'application/x-ndjson',
      'cache-control': 'no-store',
    })
    share.tell(taking?.cpus ?? cpus)
    // One that left before it was answered.
    if (reply.raw.destroyed) taking?.[Symbol.dispose]()
  })
}

/** One line waits at most for a reader that is slow; then comes the latest. */
class ShareStream {
  readonly #response: ServerResponse
  #latest: number | undefined
  #told: number | undefined
  #isWriting = false

  constructor(response: ServerResponse) {
    this.#response = response
  }

  tell(cpus: number): void {
    this.#latest = cpus
    if (this.#isWriting || this.#told === cpus || this.#response.destroyed) return
    this.#told = cpus
    this.#isWriting = true
    const line: LocalShare = { cpus }
    this.#response.write(`${JSON.stringify(line)}\n`, () => {
      this.#isWriting = false
      if (this.#latest !== undefined) this.tell(this.#latest)
    })
  }
}
