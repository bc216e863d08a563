/** Engines of containers that really answer. They are told to people; builds do not use them. */
import { homedir } from 'node:os'
import { hasCode } from '../../base/errors.ts'
import { findTool } from '../tool-path.ts'
import type { Ability } from './known.ts'
import { tryProgram } from './try-program.ts'

export interface Engine extends Ability {
  readonly name: string
  /** As it tells it; empty where it does not answer. */
  readonly version: string
}

/** A daemon that hangs is as good as none. */
const ANSWER_MS_MAX = 3_000
const VERSION_CHARS_MAX = 64

/** Those with a daemon are asked for what only that can answer. */
const QUESTIONS: readonly (readonly [name: string, args: readonly string[]])[] = [
  ['docker', ['version', '--format', '{{.Server.Version}}']],
  ['podman', ['info', '--format', '{{.Version.Version}}']],
  ['nerdctl', ['version', '--format', '{{.Server.Version}}']],
  ['systemd-nspawn', ['--version']],
  ['lxc-info', ['--version']],
  ['apptainer', ['--version']],
]

/** Those that are installed, in a fixed order. */
export async function probeEngines(searchPath?: string): Promise<readonly Engine[]> {
  const found = await Promise.all(
    QUESTIONS.map(async ([name, args]): Promise<Engine[]> => {
      const program = await findTool(name, searchPath)
      if (program === undefined) return []
      const env = homeOf()
      const tried = await tryProgram(program, args, { limitMs: ANSWER_MS_MAX, env })
      const version = /\d[\w.+~-]*/.exec(tried.stdout)?.[0].slice(0, VERSION_CHARS_MAX) ?? ''
      return tried.code === 0 && version !== ''
        ? [{ name, version, ok: true, why: program }]
        : [{ name, version: '', ok: false, why: tried.why || 'it told no version' }]
    }),
  )
  return found.flat()
}

/** Their clients look there for which engine is meant. A user without a name has none. */
function homeOf(): Record<string, string> {
  try {
    return { HOME: homedir() }
  } catch (error) {
    if (!hasCode(error, 'ERR_SYSTEM_ERROR')) throw error
    return {}
  }
}
