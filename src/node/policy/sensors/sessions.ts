/**
 * Who is logged in, as systemd-logind keeps it in `/run/systemd/sessions`, and since when a desktop is idle,
 * as `loginctl` tells it. The files are private to logind but have had this form since 2011; asking over
 * D-Bus every two seconds would cost a process each time, which only desktops need.
 */
import { execFile } from 'node:child_process'
import type { MachineFiles } from './machine-files.ts'

export interface Session {
  readonly id: string
  readonly user: string
  /** `tty2`, `pts/0`; empty for none. */
  readonly tty: string
  /** X11, Wayland and the like: what is typed there goes through no terminal. */
  readonly isGraphical: boolean
  /** `wayland on seat0`, `tty2`. */
  readonly where: string
}

/** Desktops that are asked for. */
const ASKED_MAX = 16
const ANSWER_MS = 1000
const ANSWER_BYTES_MAX = 64 * 1024

/** A session has a second file, `ID.ref`, which is a pipe: reading that never ends. */
export const isSessionFile = (name: string): boolean => /^[A-Za-z0-9]{1,32}$/.test(name)

/** Sessions of people; undefined where there is no logind. */
export function readSessions(files: MachineFiles): Session[] | undefined {
  const ids = files.list('run/systemd/sessions')
  if (ids === undefined) return undefined
  const sessions: Session[] = []
  for (const id of ids.filter(isSessionFile)) {
    const text = files.read(`run/systemd/sessions/${id}`)
    if (text === undefined) continue
    const values = valuesOf(text)
    const user = values.get('USER') ?? `user ${values.get('UID') ?? '?'}`
    // Greeters, lock screens and the manager of a user are nobody who sits there.
    if (values.get('CLASS') !== 'user' || values.get('STATE') === 'closing') continue
    const type = values.get('TYPE') ?? 'unspecified'
    const tty = values.get('TTY') ?? ''
    const isGraphical = type === 'x11' || type === 'wayland' || type === 'mir'
    const seat = values.get('SEAT')
    sessions.push({
      id,
      user,
      tty,
      isGraphical,
      where: isGraphical ? `${type}${seat === undefined ? '' : ` on ${seat}`}` : tty,
    })
  }
  return sessions
}

/** Assignments, one a line. */
export function valuesOf(text: string): Map<string, string> {
  const values = new Map<string, string>()
  for (const line of text.split('\n')) {
    const at = line.indexOf('=')
    if (at > 0) values.set(line.slice(0, at), line.slice(at + 1).replace(/^"(.*)"$/, '$1'))
  }
  return values
}

/** Runs `loginctl`; undefined where it gives no answer. */
export type AskLogind = (args: readonly string[]) => Promise<string | undefined>

export const askLogind: AskLogind = (args) =>
  new Promise((resolve) => {
    execFile(
      'loginctl',
      [...args],
      {
        timeout: ANSWER_MS,
        maxBuffer: ANSWER_BYTES_MAX,
        env: { PATH: '/usr/bin:/bin', LC_ALL: 'C' },
      },
      (error, stdout) => resolve(error === null ? stdout : undefined),
    )
  })

/**
 * Since when each of the sessions is idle: 0 for one that is in use, by its desktop's word. Sessions that
 * nothing is told of are left out.
 */
export async function idleSince(
  sessions: readonly Session[],
  ask: AskLogind,
  nowWallMs: number,
): Promise<Map<string, number>> {
  const idle = new Map<string, number>()
  if (sessions.length === 0) return idle
  const ids = sessions.slice(0, ASKED_MAX).map(({ id }) => id)
  const answer = await ask(['show-session', ...ids, '--property=Id,IdleHint,IdleSinceHint'])
  for (const part of (answer ?? '').split('\n\n')) {
    const values = valuesOf(part)
    const id = values.get('Id')
    const hint = values.get('IdleHint')
    if (id === undefined || hint === undefined) continue
    const sinceWallMs = Number(values.get('IdleSinceHint') ?? Number.NaN) / 1000
    if (hint === 'no') idle.set(id, 0)
    else if (sinceWallMs > 0) idle.set(id, Math.max(0, nowWallMs - sinceWallMs))
  }
  return idle
}
