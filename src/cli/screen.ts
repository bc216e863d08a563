/**
 * The whole terminal for a live view: the alternate screen, single keys, and everything as it was afterwards.
 *
 * However the program ends (a key, an error, a signal), the terminal is restored first; only SIGKILL can
 * prevent it. A window that is resized is told to whoever paints.
 */
import type { Context } from './context.ts'

const ENTER = '\x1b[?1049h\x1b[?25l\x1b[2J'
const LEAVE = '\x1b[?25h\x1b[?1049l'
/** Signals that would end the program without its exit handlers. */
const DEADLY = ['SIGHUP', 'SIGQUIT'] as const

export interface Screen extends Disposable {
  /** Replaces what is shown; lines beyond the last row are not drawn. */
  paint(lines: readonly string[]): void
}

export interface ScreenEvents {
  readonly onKey: (key: string) => void
  readonly onResize: () => void
}

export function openScreen(context: Context, { onKey, onResize }: ScreenEvents): Screen {
  const { stdin, stdout } = context
  let isOpen = true
  const keys = (bytes: Buffer): void => {
    for (const key of bytes.toString('latin1')) onKey(key)
  }
  const restore = (): void => {
    if (!isOpen) return
    isOpen = false
    process.off('exit', restore)
    for (const signal of DEADLY) process.off(signal, die)
    if (stdin.isTTY) {
      stdin.off('data', keys)
      stdin.setRawMode(false)
      stdin.pause()
    }
    void stdout.write(LEAVE)
  }
  const die = (signal: NodeJS.Signals): void => {
    restore()
    process.kill(process.pid, signal)
  }
  process.on('exit', restore)
  for (const signal of DEADLY) process.on(signal, die)
  if (stdin.isTTY) {
    stdin.setRawMode(true)
    stdin.on('data', keys)
  }
  void stdout.write(ENTER)
  stdout.onResize(() => {
    if (isOpen) onResize()
  })
  return {
    paint(lines) {
      if (!isOpen) return
      const shown = lines.slice(0, stdout.rows())
      // Erased line by line behind the text: a screen that is emptied first flickers.
      void stdout.write(`\x1b[H${shown.map((line) => `${line}\x1b[K`).join('\r\n')}\x1b[J`)
    },
    [Symbol.dispose]: restore,
  }
}
