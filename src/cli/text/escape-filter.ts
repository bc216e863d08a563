/**
 * What of a builder's output may reach a terminal or a file. Logs are stored as they were printed; here
 * colours stay where they are wanted, and so does what redraws a line. Everything else that a terminal would
 * obey goes: titles, the clipboard (OSC 52), cursor movements, modes, questions that it would answer.
 */

const ESC = 0x1b
/** An unfinished sequence of this length was none: it is dropped, and text begins again. */
const CSI_BYTES_MAX = 64
const STRING_BYTES_MAX = 4096

export interface EscapePolicy {
  /** Colours and attributes stay. */
  readonly colour: boolean
  /** For a terminal: what redraws a line stays, controls that do more than move in it go. */
  readonly isTerminal: boolean
}

type State = 'text' | 'escape' | 'intermediate' | 'csi' | 'string' | 'string-escape'

/** Of one stream: sequences may come in pieces. */
export class EscapeFilter {
  readonly #policy: EscapePolicy
  #state: State = 'text'
  #sequence: number[] = []
  #stringBytes = 0
  /** A byte that begins a control character of two bytes in UTF-8, perhaps. */
  #hasC2 = false

  constructor(policy: EscapePolicy) {
    this.#policy = policy
  }

  push(bytes: Uint8Array): Uint8Array {
    if (this.#state === 'text' && !this.#hasC2 && !this.#mayHide(bytes)) return bytes
    const out: number[] = []
    for (const byte of bytes) this.#next(byte, out)
    return Uint8Array.from(out)
  }

  #mayHide(bytes: Uint8Array): boolean {
    if (bytes.includes(ESC)) return true
    return (
      this.#policy.isTerminal && bytes.some((byte) => byte < 0x20 || byte === 0x7f || byte === 0xc2)
    )
  }

  #next(byte: number, out: number[]): void {
    switch (this.#state) {
      case 'text':
        this.#text(byte, out)
        return
      case 'escape':
        if (byte === 0x5b) this.#begin('csi', [ESC, byte])
        // OSC, DCS, APC, PM, SOS: up to BEL or ST.
        else if ([0x5d, 0x50, 0x5f, 0x5e, 0x58].includes(byte)) this.#begin('string')
        else if (byte >= 0x20 && byte <= 0x2f) this.#state = 'intermediate'
        else this.#leave(byte, out)
        return
      case 'intermediate':
        if (byte < 0x20 || byte > 0x2f) this.#leave(byte, out)
        return
      case 'csi':
        this.#csi(byte, out)
        return
      case 'string':
        this.#stringBytes += 1
        if (byte === 0x07) this.#state = 'text'
        else if (byte === ESC) this.#state = 'string-escape'
        // Else one that has no end would hide all that follows.
        else if (byte === 0x0a || this.#stringBytes > STRING_BYTES_MAX) {
          this.#state = 'text'
          this.#text(byte, out)
        }
        return
      case 'string-escape':
        if (byte === 0x5c) this.#state = 'text'
        else {
          this.#state = 'escape'
          this.#next(byte, out)
        }
        return
    }
  }

  #begin(state: 'csi' | 'string', sequence: readonly number[] = []): void {
    this.#state = state
    this.#sequence = [...sequence]
    this.#stringBytes = 0
  }

  /** The end of a short sequence, none of which is shown; a control byte is no part of it. */
  #leave(byte: number, out: number[]): void {
    this.#state = byte === ESC ? 'escape' : 'text'
    if (byte < 0x20 && byte !== ESC) this.#text(byte, out)
  }

  #csi(byte: number, out: number[]): void {
    if (byte >= 0x20 && byte <= 0x3f && this.#sequence.length < CSI_BYTES_MAX) {
      this.#sequence.push(byte)
      return
    }
    if (byte < 0x40 || byte > 0x7e) {
      this.#leave(byte, out)
      return
    }
    this.#state = 'text'
    this.#sequence.push(byte)
    const isPlain = this.#sequence.slice(2, -1).every((each) => each >= 0x30 && each <= 0x3b)
    const isColour = byte === 0x6d && this.#policy.colour
    const isErase = byte === 0x4b && this.#policy.isTerminal
    if (isPlain && (isColour || isErase)) out.push(...this.#sequence)
  }

  #text(byte: number, out: number[]): void {
    if (this.#hasC2) {
      this.#hasC2 = false
      if (byte >= 0x80 && byte <= 0x9f) {
        if (byte === 0x9b) this.#begin('csi', [ESC, 0x5b])
        else if ([0x9d, 0x90, 0x9f, 0x9e, 0x98].includes(byte)) this.#begin('string')
        return
      }
      // Alone it is no text, and must not meet what comes after something that was left out.
      if (byte >= 0xa0 && byte <= 0xbf) out.push(0xc2)
    }
    if (byte === ESC) this.#state = 'escape'
    else if (!this.#policy.isTerminal) out.push(byte)
    else if (byte === 0xc2) this.#hasC2 = true
    // Backspace, tab, line feed and carriage return are what lines are made of.
    else if ((byte >= 0x20 && byte !== 0x7f) || (byte >= 0x08 && byte <= 0x0a) || byte === 0x0d)
      out.push(byte)
  }
}
