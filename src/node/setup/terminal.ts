/** The person at the terminal: gets questions, gives lines. */
import { createInterface } from 'node:readline'
import type { ReadStream, WriteStream } from 'node:tty'

export interface Terminal extends Disposable {
  show(text: string): void
  /** A line without blanks around it; undefined once the person wants to end, by ^C or ^D. */
  ask(prompt: string): Promise<string | undefined>
  /** All questions end as if by ^C. */
  interrupt(): void
}

/** Lines that may be typed ahead of their questions; more are dropped. */
const LINES_AHEAD_MAX = 64

/** Undefined where one of the two is no terminal. The caller disposes of it: until then ^C gives no signal. */
export function openTerminal(input: ReadStream, output: WriteStream): Terminal | undefined {
  if (!input.isTTY || !output.isTTY) return undefined
  const lines = createInterface({ input, output, historySize: 0 })
  const ahead: string[] = []
  let waiting: ((line: string | undefined) => void) | undefined
  let isOver = false
  const give = (line: string | undefined): void => {
    const taker = waiting
    waiting = undefined
    taker?.(line)
  }
  const end = (): void => {
    isOver = true
    give(undefined)
  }
  lines.on('line', (text) => {
    const line = text.trim()
    if (waiting !== undefined) give(line)
    else if (ahead.length < LINES_AHEAD_MAX) ahead.push(line)
  })
  lines.on('SIGINT', end)
  lines.on('close', end)
  return {
    show: (text) => void output.write(text),
    ask(prompt) {
      if (isOver) return Promise.resolve(undefined)
      const next = ahead.shift()
      if (next !== undefined) {
        output.write(`${prompt}${next}\n`)
        return Promise.resolve(next)
      }
      lines.setPrompt(prompt)
      lines.prompt()
      return new Promise((resolve) => (waiting = resolve))
    },
    interrupt: end,
    [Symbol.dispose]: () => lines.close(),
  }
}
