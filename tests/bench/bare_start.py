"""Bare FastAPI + SQLModel: what starting and idling cost before there is a product."""

import os

import uvicorn
from fastapi import FastAPI
from sqlmodel import Field, Session, SQLModel, create_engine, select


class Run(SQLModel, table=True):
    id: str = Field(primary_key=True)
    status: str


engine = create_engine(os.environ["LLM_TRAIN_DATABASE_URL"])
SQLModel.metadata.create_all(engine)
app = FastAPI()


@app.get("/")
def runs() -> list[Run]:
    with Session(engine) as session:
        return list(session.exec(select(Run)))


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["LLM_TRAIN_PORT"]), log_level="warning")
