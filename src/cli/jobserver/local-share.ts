/**
 * The share of this machine's processors that the daemon gives a build beside the mesh, as it changes.
 *
 * A lost daemon ends nothing: the build goes on with what it has, and is told again once there is one.
 */
import { request } from 'node:http'
import { backoffMs } from '../../base/backoff.ts'
import { sleep } from '../../base/clock.ts'
import { isErrorCode, MeshError, messageOf } from '../../base/errors.ts'
import { Problem } from '../../wire/api.ts'
import { parseWith } from '../../wire/cbor.ts'
import { LOCAL_BUILDS_PATH, LocalShare, type LocalBuild } from '../../wire/local-build.ts'
import type { Context } from '../context.ts'

const RETRY = { firstMs: 500, maxMs: 10_000 } as const
/** A line of the daemon is a number; what is longer is none. */
const LINE_CHARS_MAX = 1024
const CLOSED = 'the daemon closed the connection'

export interface ShareSource {
  /** The socket of a daemon, looked for anew after one was lost. Throws MESH0101. */
  readonly locate: () => Promise<string>
  readonly onShare: (cpus: number) => void
  /** It goes on with what it has. */
  readonly onLost: (why: string) => void
  readonly signal: AbortSignal
}

/** Resolves with the first share; the others follow through `onShare` until `signal` aborts. Throws what the daemon refuses. */
export async function followShare(
  { clock, random }: Pick<Context, 'clock' | 'random'>,
  build: LocalBuild,
  source: ShareSource,
): Promise<number> {
  const first = await connect(await source.locate(), build, source)
  void keep()
  return first.cpus

  async function keep(): Promise<void> {
    let { lost } = first
    for (let attempt = 1; ; attempt++) {
      const why = await lost
      if (source.signal.aborted) return
      if (attempt === 1) source.onLost(why)
      try {
        await sleep(clock, backoffMs(random, attempt, RETRY), source.signal)
        const again = await connect(await source.locate(), build, source)
        source.onShare(again.cpus)
        lost = again.lost
        attempt = 0
      } catch (error) {
        lost = Promise.resolve(messageOf(error))
      }
    }
  }
}

/** One connection: its first number, and why it ended. */
function connect(
  socketPath: string,
  build: LocalBuild,
  { onShare, signal }: ShareSource,
): Promise<{ readonly cpus: number; readonly lost: Promise<string> }> {
  return new Promise((resolve, reject) => {
    const lost = Promise.withResolvers<string>()
    const call = request({
      socketPath,
      path: LOCAL_BUILDS_PATH,
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      agent: false,
      signal,
    })
    call.once('error', (error) => {
      reject(error)
      lost.resolve(messageOf(error))
    })
    call.once('response', (response) => {
      let text = ''
      let isFirst = true
      response.setEncoding('utf8')
      response.on('data', (piece: string) => {
        text += piece
        if (response.statusCode !== 200) return
        try {
          for (let end = text.indexOf('\n'); end !== -1; end = text.indexOf('\n')) {
            const { cpus } = parseWith(LocalShare, JSON.parse(text.slice(0, end)), 'share')
            text = text.slice(end + 1)
            if (isFirst) resolve({ cpus, lost: lost.promise })
            else onShare(cpus)
            isFirst = false
          }
          if (text.length > LINE_CHARS_MAX) throw new Error('a line without an end')
        } catch (error) {
          response.destroy(error instanceof Error ? error : undefined)
        }
      })
      response.once('error', (error) => lost.resolve(messageOf(error)))
      response.once('close', () => {
        lost.resolve(CLOSED)
        // Of no effect where a number has come before.
        reject(refusalOf(response.statusCode ?? 500, text))
      })
    })
    call.end(JSON.stringify(build))
  })
}

function refusalOf(status: number, text: string): Error {
  const parsed = Problem.safeParse(parseJson(text))
  if (parsed.success && isErrorCode(parsed.data.code))
    return new MeshError(parsed.data.code, parsed.data.detail, { hints: parsed.data.hints })
  return new MeshError('MESH0101', `the daemon answered ${status} and told no share`, {
    hints: ['run without it: mesh jobserver --no-daemon'],
  })
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined // no problem document
  }
}
