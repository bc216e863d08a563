/** Asks a program of this machine about itself. Only programs that a person named are asked. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { deadline, type Clock } from '../../../base/clock.ts'
import { messageOf } from '../../../base/errors.ts'

const ANSWER_MS = 20_000
const ANSWER_BYTES_MAX = 4 * 1024 * 1024

/** What it wrote to stdout and stderr, one behind the other; undefined where it failed, with the reason told. */
export async function askTool(
  clock: Clock,
  argv: readonly string[],
  onFailure: (text: string) => void = () => undefined,
): Promise<string | undefined> {
  const [program = '', ...args] = argv
  const limit = deadline(clock, ANSWER_MS, () => new Error(`no answer in ${ANSWER_MS / 1000} s`))
  try {
    const child = spawn(program, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { PATH: '/usr/local/bin:/usr/bin:/bin', LC_ALL: 'C', HOME: '/nonexistent' },
      cwd: '/',
      signal: limit.signal,
      killSignal: 'SIGKILL',
    })
    const pieces: { readonly out: Buffer[]; readonly err: Buffer[] } = { out: [], err: [] }
    let size = 0
    for (const [name, stream] of [
      ['out', child.stdout],
      ['err', child.stderr],
    ] as const)
      stream.on('data', (piece: Buffer) => {
        size += piece.byteLength
        if (size <= ANSWER_BYTES_MAX) pieces[name].push(piece)
      })
    const [code] = await once(child, 'close')
    if (code === 0) return Buffer.concat([...pieces.out, ...pieces.err]).toString('utf8')
    onFailure(`${argv.join(' ')} ended with ${String(code)}`)
  } catch (error) {
    onFailure(`${argv.join(' ')}: ${messageOf(error)}`)
  } finally {
    limit.cancel()
  }
  return undefined
}
